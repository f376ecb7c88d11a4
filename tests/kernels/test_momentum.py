"""SGHMC and SGNHT against what is known exactly of them, and the published suite."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest
import torch

from devinterp import plugins
from devinterp.errors import InvalidInputError
from devinterp.testing import KernelTests
from devinterp.types import StepInputs, Target

SGHMC, SGNHT = plugins.kernel("sghmc"), plugins.kernel("sgnht")
TARGET = Target(n_beta=10.0, localization=5.0, weight_decay=1.0)


def lyapunov(lr, friction, gradient_noise, curvature):
    """Return the stationary covariance of (w, v) of one coordinate from ``P = A P A' + B B'``, solved as a linear system."""
    eta, keep = lr / 2, 1 - friction
    A = np.array([[1 - eta * curvature, keep], [-eta * curvature, keep]])
    noise = (friction - gradient_noise) * lr * np.ones((2, 2))
    return np.linalg.solve(np.eye(4) - np.kron(A, A), noise.flatten()).reshape(2, 2)


@pytest.mark.parametrize("friction", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("lr", [1e-3, 0.1])
def test_the_variance_in_the_docs_solves_the_lyapunov_equation(lr, friction):
    for curvature in (0.5, 11.0, 35.0):
        covariance = lyapunov(lr, friction, 0.0, curvature)
        stated = 1 / (curvature * (1 - lr * curvature / (4 * (2 - friction))))
        np.testing.assert_allclose(covariance[0, 0], stated, rtol=1e-9)


def test_the_stated_limit_of_stability_is_where_the_spectral_radius_is_one():
    for friction in (0.1, 0.5, 1.0):
        for curvature in (1.0, 40.0):
            for factor, stable in ((0.999, True), (1.001, False)):
                lr = factor * 4 * (2 - friction) / curvature
                A = np.array([[1 - lr / 2 * curvature, 1 - friction], [-lr / 2 * curvature, 1 - friction]])
                assert (np.abs(np.linalg.eigvals(A)).max() < 1) == stable


class OfSGHMC(KernelTests):
    """The law is exact at any step size."""

    kernel = SGHMC
    precision = 0.01

    def stationary_variance(self, curvature):
        settings = self.build()
        solved = [
            lyapunov(self.lr, settings.friction, settings.gradient_noise, float(a))[0, 0] for a in curvature.flatten()
        ]
        return torch.tensor(solved, dtype=curvature.dtype).view_as(curvature)


class TestSGHMC(OfSGHMC):
    lr = 5e-3
    num_steps = 400


class TestSGHMCAtALargeStep(OfSGHMC):
    options: ClassVar = {"friction": 0.4}
    lr = 4e-2  # the largest variance is 1.4 times the target's
    num_steps = 200


class TestSGHMCOfNoisyGradients(OfSGHMC):
    """What is taken off for the noise of gradients is missing here, where they have none."""

    options: ClassVar = {"friction": 0.4, "gradient_noise": 0.1}
    lr = 2e-2
    num_steps = 200


def one(kernel, seed=0, chains=2, **options):
    """Return the values after one step of a kernel from fixed values, gradients and noise."""
    w, w0, g, xi = torch.randn((4, chains, 5), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    values = [w.clone()]
    transition = plugins.kernel(kernel).build(TARGET, lr=0.01, **options)
    transition.update(StepInputs(values, [g.clone()], [w0], transition.init(values), [xi.clone()]))
    return values[0]


def test_full_friction_is_sgld():
    torch.testing.assert_close(one("sghmc", friction=1.0), one("sgld"), rtol=1e-12, atol=0)


def test_a_first_step_of_the_thermostat_is_one_of_sghmc():
    """Before it has adapted, the friction is that which the noise balances."""
    torch.testing.assert_close(one("sgnht", diffusion=0.3), one("sghmc", friction=0.3), rtol=1e-12, atol=0)


def test_gradient_noise_is_made_up_for():
    """Gradients with noise of variance s² heat SGHMC, unless ``gradient_noise = s² n_beta² lr / 4`` is taken off."""
    chains, lr, friction, spread = 40_000, 0.02, 0.3, 0.6
    estimate = spread**2 * TARGET.n_beta**2 * lr / 4
    a = TARGET.n_beta * 1.0 + TARGET.localization + TARGET.weight_decay
    variances = {}
    for taken in (0.0, estimate):
        generator = torch.Generator().manual_seed(0)
        transition = SGHMC.build(TARGET, lr=lr, friction=friction, gradient_noise=taken)
        initial_weights = [torch.zeros(chains, 1, dtype=torch.float64)]
        values = [initial_weights[0].clone()]
        state = transition.init(values)
        for _ in range(200):
            noise = torch.randn((2, chains, 1), generator=generator, dtype=torch.float64)
            gradient = values[0] + spread * noise[0]
            transition.update(StepInputs(values, [gradient], initial_weights, state, [noise[1]]))
        variances[taken] = float(values[0].var())
    exact = lyapunov(lr, friction, 0.0, a)[0, 0]
    error = math.sqrt(2 / chains)
    assert abs(variances[estimate] / exact - 1) < 5 * error
    assert variances[0.0] / exact > 1 + 20 * error


class TestSGNHT(KernelTests):
    """With eight weights, which the thermostat couples."""

    kernel = SGNHT


@pytest.mark.heavy
class TestSGNHTOfLargeFriction(TestSGNHT):
    """Held at ``lr / 2``, the mean square velocity of the paper, it would be 25 % too cold."""

    options: ClassVar = {"diffusion": 0.5}


def thermostat(num_weights, *, lr, diffusion, heat=0.0, steps=3000, chains=64, start=None):
    """Run SGNHT on a quadratic of that many equal weights; return mean squares of w and v and the mean friction.

    `heat` is the variance that noise of the gradients adds to a kick, over that of the noise that the kernel adds.
    """
    target = Target(n_beta=20.0)
    spread = math.sqrt(heat * diffusion * lr) / (lr / 2 * target.n_beta)
    transition = SGNHT.build(target, lr=lr, diffusion=diffusion)
    generator = torch.Generator().manual_seed(5)
    initial_weights = [torch.zeros(chains, num_weights, dtype=torch.float64)]
    values = [initial_weights[0].clone()]
    state = transition.init(values)
    if start is not None:
        state["friction"][0].fill_(start)
    found = []
    for step in range(steps):
        noise = torch.randn((2, chains, num_weights), generator=generator, dtype=torch.float64)
        transition.update(StepInputs(values, [values[0] + spread * noise[0]], initial_weights, state, [noise[1]]))
        if step >= steps // 2:
            squares = [values[0].square().mean(1), state["velocity"][0].square().mean(1), state["friction"][0]]
            found.append(torch.stack([each.clone() for each in squares]))
    stacked = torch.stack(found).mean(0)  # (quantity, chain)
    return stacked.mean(1), stacked.std(1) / chains**0.5


@pytest.mark.heavy
@pytest.mark.parametrize("diffusion", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("lr", [0.004, 0.02])
def test_the_thermostat_holds_the_temperature_at_any_step(lr, diffusion):
    """E[a w²] = 1 and E v² = lr / (2 - friction), whatever the friction."""
    mean, error = thermostat(50, lr=lr, diffusion=diffusion)
    assert abs(20.0 * float(mean[0]) - 1) < 5 * 20.0 * float(error[0]) + 2e-3  # friction still moves by about 0.01
    assert float(mean[1]) == pytest.approx(lr / (2 - float(mean[2])), rel=2e-3)


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("lr", "heat"),
    [pytest.param(0.04, 0.0, marks=pytest.mark.slow), (0.04, 1.0), pytest.param(0.1, 0.0, marks=pytest.mark.slow)],
)
def test_the_law_of_the_thermostat_with_many_weights(lr, heat):
    """Friction is constant and the chain is SGHMC, at the friction at which its variance is 1/a: no free parameter."""
    diffusion, a = 0.2, 20.0
    kick, h = diffusion * lr * (1 + heat), lr / 2 * a
    low, high = 1e-3, 1.0
    for _ in range(60):
        friction = (low + high) / 2
        # The variance of SGHMC, from its Lyapunov equation.
        variance = kick * (2 - friction) / (friction * h * (2 * (2 - friction) - h))
        low, high = (friction, high) if variance > 1 / a else (low, friction)
    mean, error = thermostat(2000, lr=lr, diffusion=diffusion, heat=heat, chains=8)
    assert abs(float(mean[2]) - friction) < 5 * float(error[2]) + 2e-3
    assert abs(a * float(mean[0]) - 1) < 5 * a * float(error[0]) + 2e-3
    if heat:
        assert friction > 1.5 * diffusion  # the heat is not small


def test_the_identity_behind_the_thermostat_holds_for_any_loss():
    """(2 - friction) E|v|² = lr E[w . grad U], here for SGHMC on a quartic with noisy gradients."""
    lr, friction, chains = 0.02, 0.4, 4000
    transition = SGHMC.build(Target(n_beta=1.0), lr=lr, friction=friction)
    generator = torch.Generator().manual_seed(0)
    values, initial_weights = (
        [torch.zeros(chains, 2, dtype=torch.float64)],
        [torch.zeros(chains, 2, dtype=torch.float64)],
    )
    state, sums = transition.init(values), torch.zeros(2, chains, dtype=torch.float64)
    for step in range(1500):
        noise = torch.randn((2, chains, 2), generator=generator, dtype=torch.float64)
        slope = 4 * values[0] ** 3 + values[0]
        if step >= 500:
            sums += torch.stack([(values[0] * slope).sum(1), state["velocity"][0].square().sum(1)])
        transition.update(StepInputs(values, [slope + 2 * noise[0]], initial_weights, state, [noise[1]]))
    difference = (2 - friction) * sums[1] - lr * sums[0]
    assert abs(float(difference.mean())) < 5 * float(difference.std()) / chains**0.5
    assert 5 * float(difference.std()) / chains**0.5 < 0.01 * lr * float(sums[0].mean())


@pytest.mark.heavy
def test_friction_settles_where_it_is_needed_wherever_it_starts():
    cold, _ = thermostat(200, lr=0.02, diffusion=0.2, start=0.01)
    hot, _ = thermostat(200, lr=0.02, diffusion=0.2, start=0.9)
    assert float(cold[2]) == pytest.approx(float(hot[2]), rel=0.02)


@pytest.mark.parametrize("friction", [0.0, -0.1, 1.1, math.nan])
def test_sghmc_refuses_friction(friction):
    with pytest.raises(InvalidInputError, match=rf"`friction` \(={friction}\) must be above 0 and at most 1"):
        SGHMC.build(TARGET, lr=0.01, friction=friction)


@pytest.mark.parametrize("noise", [-0.1, 0.1, math.nan])
def test_sghmc_refuses_gradient_noise(noise):
    with pytest.raises(InvalidInputError, match=rf"`gradient_noise` \(={noise}\) must be at least 0 and below"):
        SGHMC.build(TARGET, lr=0.01, gradient_noise=noise)


@pytest.mark.parametrize("diffusion", [0.0, -0.1, 2.0, math.nan])
def test_sgnht_refuses_diffusion(diffusion):
    with pytest.raises(InvalidInputError, match=rf"`diffusion` \(={diffusion}\) must be above 0 and at most 1"):
        SGNHT.build(TARGET, lr=0.01, diffusion=diffusion)
