"""The method of Leimkuhler and Matthews and BAOAB: their exact laws at any step, with minibatch noise, preconditioned."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from devinterp import plugins, sample
from devinterp.errors import InvalidInputError
from devinterp.kernels import baoab, leimkuhler_matthews, rmsprop_baoab, rmsprop_leimkuhler_matthews, sghmc, sgld
from devinterp.kernels.frozen_rmsprop import FrozenRMSprop
from devinterp.sampling.chains.mala import proposes_langevin
from devinterp.testing import KernelTests
from devinterp.testing.quadratics import Quadratic, time_averages
from devinterp.types import StepInputs, Target

LM, BAOAB, RMSPROP_LM, RMSPROP_BAOAB, SGHMC, SGLD = (
    module.devinterp_kernels()[0]
    for module in (leimkuhler_matthews, baoab, rmsprop_leimkuhler_matthews, rmsprop_baoab, sghmc, sgld)
)
LR = 0.01
#: lr times the second derivatives of U: SGLD's variance is 2.5 %, 33 %, 100 % and 300 % too large there.
X = torch.tensor([0.1, 1.0, 2.0, 3.0], dtype=torch.float64)
TARGET = Target(n_beta=2.0, localization=4.0, weight_decay=2.0)


def momentum_factor(friction):
    """Return how much further than SGLD's the chain moves where it is flat: (1 + c) / (1 - c)."""
    return (2 - friction) / friction


def law(x, *, rho=0.0, subtracted=0.0):
    """Return the variance times the curvature that the docs state."""
    return 1 - subtracted + rho / (1 - x / 4)


def lyapunov(A, *noises):
    """Return the stationary covariance of ``z <- A z + sum B xi``."""
    n = len(A)
    noise = sum(np.outer(B, B) for B in noises)
    return np.linalg.solve(np.eye(n * n) - np.kron(A, A), noise.flatten()).reshape(n, n)


def matrices(friction, lr, a, *, s=0.0, b=0.0):
    """Return the step of BAOAB as a matrix of (w, v), and what the noise and that of the gradient add."""
    d, c = math.sqrt(lr), 1 - friction
    kick = np.array([[1.0, 0.0], [-d * a, 1.0]])
    drift = np.array([[1.0, d / 2], [0.0, 1.0]])
    fade = np.diag([1.0, c])
    A = drift @ fade @ drift @ kick
    noise = drift @ np.array([0.0, math.sqrt(1 - c**2 - (1 + c) ** 2 * b)])
    return A, noise, drift @ fade @ drift @ np.array([0.0, -d * s])


@pytest.mark.parametrize("friction", [0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("x", [0.01, 0.1, 1.0, 3.0, 3.9])
def test_the_variance_in_the_docs_solves_the_lyapunov_equation(friction, x):
    a, s = x / LR, 5.0
    rho = LR * s**2 / 4 * momentum_factor(friction)
    b = 0.4 / momentum_factor(friction)
    for noise, taken in ((0.0, 0.0), (s, 0.0), (s, b)):
        covariance = lyapunov(*matrices(friction, LR, a, s=noise, b=taken))
        stated = law(x, rho=rho * bool(noise), subtracted=taken * momentum_factor(friction))
        np.testing.assert_allclose(a * covariance[0, 0], stated, rtol=1e-9)


@pytest.mark.parametrize("friction", [0.1, 0.5, 1.0])
@pytest.mark.parametrize(("x", "stable"), [(3.999, True), (4.001, False)])
def test_the_stated_limit_of_stability_is_where_the_spectral_radius_is_one(friction, x, stable):
    A, *_ = matrices(friction, LR, x / LR)
    assert (np.abs(np.linalg.eigvals(A)).max() < 1) == stable


@pytest.mark.parametrize("friction", [0.1, 0.2, 0.5])
def test_directions_oscillate_beyond_the_stated_curvature(friction):
    c = 1 - friction
    limit = 2 * (1 - math.sqrt(c)) ** 2 / (1 + c)
    for factor in (0.99, 1.01):
        eigenvalues = np.linalg.eigvals(matrices(friction, LR, factor * limit / LR)[0])
        assert bool(np.abs(eigenvalues.imag).max() > 0) == (factor > 1)
    flat = 1e-6
    slowest = np.abs(np.linalg.eigvals(matrices(friction, LR, flat / LR)[0])).max()
    assert -1 / math.log(slowest) == pytest.approx(2 / flat / momentum_factor(friction), rel=2e-3)


def quadratic(curvatures):
    """Return a quadratic loss whose potential has these second derivatives."""
    h = ((curvatures - TARGET.localization - TARGET.weight_decay) / TARGET.n_beta)[None]
    return Quadratic([torch.zeros_like(h)], [torch.full_like(h, 0.1)], [h])


def variances(transition, curvatures, *, gradient_noise=0.0, num_chains=2000, num_burnin_steps=300, num_steps=700):
    """Return measured variances times curvatures, and their standard errors."""
    options = {"num_chains": num_chains, "num_burnin_steps": num_burnin_steps, "num_steps": num_steps}
    _, squares = time_averages(transition, quadratic(curvatures), TARGET, gradient_noise=gradient_noise, **options)
    scaled = squares * curvatures
    return scaled.mean(0), scaled.std(0) / num_chains**0.5


KERNELS = [
    pytest.param(LM, {}, 1.0, id="leimkuhler_matthews"),
    pytest.param(BAOAB, {}, 0.2, id="baoab"),
    pytest.param(BAOAB, {"friction": 0.5}, 0.5, id="baoab-0.5"),
]


@pytest.mark.parametrize(("kernel", "kernel_options", "friction"), KERNELS)
def test_the_variance_is_that_of_the_target_at_any_stable_step(kernel, kernel_options, friction):
    options = {"num_chains": 4000, "num_steps": 1000}
    measured, error = variances(kernel.build(TARGET, lr=LR, **kernel_options), X / LR, **options)
    assert (5 * error < 0.02).all()
    assert ((measured - 1).abs() < 5 * error).all()


@pytest.mark.parametrize("share", [0.0, 1.0])
@pytest.mark.parametrize(("kernel", "options", "friction"), KERNELS)
def test_minibatch_noise_adds_what_is_stated_and_can_be_subtracted(kernel, options, friction, share):
    rho = 0.5
    s = math.sqrt(4 * rho / momentum_factor(friction) / LR)
    taken = share * rho / momentum_factor(friction)
    transition = kernel.build(TARGET, lr=LR, gradient_noise=taken, **options)
    measured, error = variances(transition, X / LR, gradient_noise=s / TARGET.n_beta)
    expected = law(X, rho=rho, subtracted=share * rho)
    assert ((measured - expected).abs() < 5 * error).all()
    assert (5 * error < 0.03 * expected).all()


@pytest.mark.parametrize(("kernel", "friction"), [(SGLD, 1.0), (SGHMC, 0.1), (SGHMC, 0.5)])
def test_minibatch_noise_does_the_same_to_kernels_with_a_bias_of_the_step(kernel, friction):
    """Rho is a quarter of its variance times how fast the kernel moves where it is flat."""
    rho = 0.5
    s = math.sqrt(4 * rho * friction / LR)
    options = {} if kernel is SGLD else {"friction": friction}
    curvatures = X[:3] / LR
    measured, error = variances(kernel.build(TARGET, lr=LR, **options), curvatures, gradient_noise=s / TARGET.n_beta)
    expected = (1 + rho) / (1 - X[:3] / (4 * (2 - friction)))
    assert ((measured - expected).abs() < 5 * error).all()
    assert (5 * error < 0.05 * expected).all()


def trajectories(transition, num_steps=30, seed=0):
    """Return the weights after every step on a quadratic with noisy gradients, and the last state."""
    values = quadratic(X / LR).start(3)
    state = transition.init(values)
    steps = quadratic(X / LR).steps(transition, values, state, num_steps, seed=seed, gradient_noise=0.3)
    return torch.stack([values[0].clone() for _ in steps]), state


def test_at_full_friction_baoab_is_the_method_of_leimkuhler_and_matthews():
    one, _ = trajectories(LM.build(TARGET, lr=LR))
    other, _ = trajectories(BAOAB.build(TARGET, lr=LR, friction=1.0))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    kernels = (RMSPROP_LM.build(TARGET, lr=LR), RMSPROP_BAOAB.build(TARGET, lr=LR, friction=1.0))
    # After the first steps: there noise is taken over from a step with another preconditioner in either way.
    one, other = (trajectories(kernel)[0] for kernel in kernels)
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("kernel", "options", "factor"),
    [
        (SGLD, {}, 1.0),
        (LM, {}, 1.0),
        (BAOAB, {}, 9.0),
        (BAOAB, {"friction": 0.5}, 3.0),
        (SGHMC, {}, 10.0),
    ],
)
def test_what_one_number_lr_means_where_it_is_flat(kernel, options, factor):
    """Without a potential weights diffuse: the square of the way grows by lr times the stated factor a step."""
    transition = kernel.build(Target(n_beta=0.0), lr=LR, **options)
    initial_weights = [torch.zeros(20_000, 1, dtype=torch.float64)]
    values, generator = [initial_weights[0].clone()], torch.Generator().manual_seed(0)
    state, places = transition.init(values), []
    for step in range(2001):
        if step % 1000 == 0:
            places.append(values[0].clone())
        noise = [torch.randn(values[0].shape, generator=generator, dtype=torch.float64)]
        transition.update(StepInputs(values, [torch.zeros_like(values[0])], initial_weights, state, noise))
    squares = (places[2] - places[1]).square() / (1000 * LR)
    # Velocities forget within 1 / friction steps, of a thousand.
    assert float(squares.mean()) == pytest.approx(factor, rel=5 * math.sqrt(2 / 20_000) + 0.01)


@pytest.mark.parametrize("kernel", [RMSPROP_LM, RMSPROP_BAOAB], ids=lambda kernel: kernel.name)
def test_the_preconditioner_is_the_root_mean_square_of_the_first_gradients_and_then_fixed(kernel):
    """V is the bias-corrected running mean of RMSprop and Adam, and stays as it is after the stated steps."""
    alpha, steps = 0.9, 7
    transition = kernel.build(TARGET, lr=LR, alpha=alpha, eps=0.2, num_adaptation_steps=steps)
    generator = torch.Generator().manual_seed(0)
    values = [torch.zeros(2, 5, dtype=torch.float64)]
    state, V = transition.init(values), torch.zeros(2, 5, dtype=torch.float64)
    for t in range(1, 12):
        g, xi = torch.randn((2, 2, 5), generator=generator, dtype=torch.float64)
        if t <= steps:
            V = alpha * V + (1 - alpha) * g**2
            expected = V / (1 - alpha**t)
        transition.update(StepInputs(values, [g], [torch.zeros_like(g)], state, [xi]))
        torch.testing.assert_close(state["square_average"][0], expected)
    assert state["num_adapted"][0].tolist() == [steps, steps]


@pytest.mark.parametrize("kernel", [RMSPROP_LM, RMSPROP_BAOAB], ids=lambda kernel: kernel.name)
def test_preconditioned_steps_as_written_down(kernel):
    """A step with the preconditioner G is a step without it in y, where w = sqrt(G) y."""
    plain, options = (LM, {}) if kernel is RMSPROP_LM else (BAOAB, {"friction": 0.3})
    preconditioned = kernel.build(TARGET, lr=LR, eps=0.2, num_adaptation_steps=1, **options)
    generator = torch.Generator().manual_seed(0)
    w0, g, xi = torch.randn((3, 2, 5), generator=generator, dtype=torch.float64)
    values, state = [w0.clone()], preconditioned.init([w0])
    root = (g.abs() + 0.2).rsqrt()
    free = Target(n_beta=1.0)
    other, y = plain.build(free, lr=LR, **options), [w0 / root]
    other_state = other.init(y)
    for _ in range(4):
        w = y[0] * root
        slope = TARGET.n_beta * g + TARGET.localization * (w - w0) + TARGET.weight_decay * w
        other.update(StepInputs(y, [root * slope], [y[0].clone()], other_state, [xi.clone()]))
        preconditioned.update(StepInputs(values, [g.clone()], [w0], state, [xi.clone()]))
        torch.testing.assert_close(values[0], y[0] * root)
        g, xi = torch.randn((2, 2, 5), generator=generator, dtype=torch.float64)


#: Options of preconditioned kernels on the quadratic of the laws below, where gradients are about as large as `eps`.
ADAPTIVE = {"alpha": 0.9, "eps": 0.3}


@pytest.mark.parametrize("gradient_noise", [0.0, 1.0])
@pytest.mark.parametrize(("kernel", "friction"), [(RMSPROP_LM, 1.0), (RMSPROP_BAOAB, 0.2)])
def test_a_fixed_preconditioner_leaves_the_law_exact(kernel, friction, gradient_noise):
    """Each chain has its own G and thus its own step, and all have the variance of the target, and rho of their own step."""
    curvatures = torch.tensor([10.0, 20.0, 60.0], dtype=torch.float64)
    lr, num_chains, adaptation = 0.04, 3000, 50
    transition = kernel.build(TARGET, lr=lr, num_adaptation_steps=adaptation, **ADAPTIVE)
    problem = quadratic(curvatures)
    values = problem.start(num_chains)
    state = transition.init(values)
    for _ in problem.steps(transition, values, state, 300, gradient_noise=gradient_noise):
        pass
    G = 1 / (state["square_average"][0].sqrt() + ADAPTIVE["eps"])
    x = lr * G * curvatures
    assert float(x.max()) < 4
    assert float(x[:, 2].mean()) > 0.5  # SGLD would be off by 14 % and more
    assert float((x.std(0) / x.mean(0)).min()) > 0.05 or gradient_noise  # chains differ
    s = TARGET.n_beta * gradient_noise
    expected = law(x, rho=lr * G * s**2 / 4 * momentum_factor(friction)).mean(0)
    mean, _ = problem.mean_and_curvature(TARGET)
    sums = torch.zeros(num_chains, 3, dtype=torch.float64)
    for _ in problem.steps(transition, values, state, 600, seed=1, gradient_noise=gradient_noise):
        sums += (values[0] - mean).square() * curvatures / 600
    error = sums.std(0) / num_chains**0.5
    assert ((sums.mean(0) - expected).abs() < 5 * error).all()
    assert (5 * error < 0.05 * expected).all()


@pytest.mark.parametrize("kernel", [RMSPROP_LM, RMSPROP_BAOAB], ids=lambda kernel: kernel.name)
def test_a_preconditioner_that_goes_on_adapting_would_not(kernel):
    curvatures = torch.tensor([10.0, 20.0, 60.0], dtype=torch.float64)
    transition = kernel.build(TARGET, lr=0.02, num_adaptation_steps=10**9, **ADAPTIVE)
    measured, error = variances(transition, curvatures, num_chains=1000)
    assert (measured - 1 > 5 * error + 0.02).all()


class Exact(KernelTests):
    """The variance is that of the target at any step, so that nothing need be extrapolated."""

    lr = 2e-2
    num_steps = 200
    precision = 0.01

    def stationary_variance(self, curvature):
        return 1 / curvature


class TestLeimkuhlerMatthews(Exact):
    kernel = LM


class TestBAOAB(Exact):
    kernel = BAOAB


class TestBAOABAtALargeStep(Exact):
    kernel = BAOAB
    options: ClassVar = {"friction": 0.5}
    lr = 8e-2  # lr a is between 0.9 and 3.7


class TestRMSpropLeimkuhlerMatthews(Exact):
    kernel = RMSPROP_LM


class TestRMSpropBAOAB(Exact):
    kernel = RMSPROP_BAOAB


class TestLeimkuhlerMatthewsWithNoiseSubtracted(Exact):
    """What is subtracted for the noise of gradients is missing here, where they have none."""

    kernel = LM
    options: ClassVar = {"gradient_noise": 0.3}

    def stationary_variance(self, curvature):
        return 0.7 / curvature


class TestBAOABWithNoiseSubtracted(TestLeimkuhlerMatthewsWithNoiseSubtracted):
    kernel = BAOAB
    options: ClassVar = {"gradient_noise": 0.3 / 9}


@pytest.mark.parametrize("noise", [-0.1, 1.0, math.nan])
def test_leimkuhler_matthews_refuses_gradient_noise(noise):
    with pytest.raises(InvalidInputError, match=rf"`gradient_noise` \(={noise}\) must be at least 0 and below 1"):
        LM.build(TARGET, lr=LR, gradient_noise=noise)


@pytest.mark.parametrize("noise", [-0.1, 0.12, math.nan])
def test_baoab_refuses_gradient_noise(noise):
    match = rf"`gradient_noise` \(={noise}\) must be at least 0 and below friction / \(2 - friction\) \(=0.111\)"
    with pytest.raises(InvalidInputError, match=match):
        BAOAB.build(TARGET, lr=LR, gradient_noise=noise)


@pytest.mark.parametrize("kernel", [BAOAB, RMSPROP_BAOAB], ids=lambda kernel: kernel.name)
@pytest.mark.parametrize("friction", [0.0, -0.1, 1.1, math.nan])
def test_baoab_refuses_friction(kernel, friction):
    with pytest.raises(InvalidInputError, match=rf"`friction` \(={friction}\) must be above 0 and at most 1"):
        kernel.build(TARGET, lr=LR, friction=friction)


@pytest.mark.parametrize(
    ("option", "value"), [("alpha", 1.0), ("alpha", -0.1), ("eps", 0.0), ("eps", math.inf), ("num_adaptation_steps", 0)]
)
@pytest.mark.parametrize("kernel", [RMSPROP_LM, RMSPROP_BAOAB], ids=lambda kernel: kernel.name)
def test_preconditioned_kernels_refuse_options(kernel, option, value):
    with pytest.raises(InvalidInputError, match=rf"`{option}` \(={value}\) must be"):
        kernel.build(TARGET, lr=LR, **{option: value})


ALL = [LM, BAOAB, RMSPROP_LM, RMSPROP_BAOAB]


@pytest.mark.parametrize("kernel", ALL, ids=lambda kernel: kernel.name)
def test_they_have_no_acceptance_of_single_steps(kernel, monkeypatch):
    """Their noise, or their velocity, carries over from step to step: no step is a proposal from the weights alone."""
    assert not proposes_langevin(kernel.build(TARGET, lr=LR), TARGET)
    monkeypatch.setattr(plugins, "kernel", lambda name: kernel)
    with pytest.raises(
        InvalidInputError, match=rf"is defined for steps of Langevin type.*'{kernel.name}'.*takes others"
    ):
        run(kernel, save_metrics=["mala_acceptance"])


def run(kernel, **options):
    """Sample a small model; the kernel is found by a patched `plugins.kernel`."""
    model = nn.Linear(3, 2)
    for n, parameter in enumerate(model.parameters()):
        nn.init.constant_(parameter, 0.5 - n)
    settings = {"lr": 0.01, "n_beta": 5.0, "localization": 2.0, "num_chains": 2, "num_draws": 6, "batch_size": 4}
    return sample(
        model.eval(),
        torch.linspace(-1, 1, 24).view(8, 3),
        loss_fn=lambda model, x: model(x).square().mean(1),
        sampling_method=kernel.name,
        progress=False,
        **{**settings, **options},
    )


@pytest.mark.parametrize("kernel", ALL, ids=lambda kernel: kernel.name)
def test_runs_are_resumed_and_run_side_by_side(kernel, monkeypatch, tmp_path):
    monkeypatch.setattr(plugins, "kernel", lambda name: kernel)
    options = {"save_metrics": True}
    if "rmsprop" in kernel.name:
        options["sampling_method_kwargs"] = {"num_adaptation_steps": 4}
    whole = run(kernel, chains="sequential", **options)
    assert sum("step" in metric.dims for metric in whole["metrics"].data_vars.values()) == 9
    assert float(whole["metrics/noise"].min()) > 0
    together = run(kernel, chains="vectorized", **options)
    np.testing.assert_allclose(together["trace/loss"], whole["trace/loss"], rtol=1e-4)
    path = tmp_path / "run.zarr"
    run(kernel, chains="sequential", output_path=path, **{**options, "num_draws": 3})
    extended = run(kernel, chains="sequential", output_path=path, **options)
    np.testing.assert_array_equal(extended["trace/loss"], whole["trace/loss"])
    np.testing.assert_array_equal(extended["metrics/distance"], whole["metrics/distance"])


def test_steps_of_terms_are_scaled_by_the_preconditioner():
    """The metrics see the drift as it is taken, in which the preconditioner is."""
    g = torch.full((1, 3), 0.5, dtype=torch.float64)
    step = StepInputs([g * 0], [g], [g * 0], {}, [g])
    preconditioned = RMSPROP_LM.build(TARGET, lr=LR, eps=0.5)
    terms = preconditioned.terms(replace(step, state=preconditioned.init([g])))
    torch.testing.assert_close(terms["gradient"][0], -LR / 2 * TARGET.n_beta * g)  # G = 1 / (0.5 + 0.5)
    assert isinstance(preconditioned.preconditioner, FrozenRMSprop)
