"""What is known exactly about the kernels of this package, beyond what the published suite asks of every kernel."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch

from devinterp import plugins
from devinterp.errors import InvalidInputError
from devinterp.types import StepInputs, Target

H = torch.tensor([0.5, 1.0, 4.0], dtype=torch.float64)
TARGET = Target(n_beta=10.0, localization=5.0)
LR, NUM = 0.03, 40_000
A = TARGET.n_beta * H + TARGET.localization
RHO = 1 - LR * A / 2


@pytest.fixture(scope="module")
def chains():
    """Return consecutive states ``(step, chain, coordinate)`` of SGLD around a minimum, after burn-in."""
    transition = plugins.kernel("sgld").build(TARGET, lr=LR)
    generator = torch.Generator().manual_seed(3)
    initial_weights = [torch.zeros(NUM, 3, dtype=torch.float64)]
    values, kept = [initial_weights[0].clone()], []
    for step in range(203):
        noise = (torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in values)
        transition.update(StepInputs(values, [H * values[0]], initial_weights, {}, noise))
        if step >= 200:
            kept.append(values[0].clone())
    return torch.stack(kept)


def test_sgld_is_an_autoregression_of_the_stated_coefficient(chains):
    one = (chains[0] * chains[1]).mean(0) / (chains[0] ** 2).mean(0)
    two = (chains[0] * chains[2]).mean(0) / (chains[0] ** 2).mean(0)
    # The standard error of a regression coefficient of an AR(1) process at its own scale.
    assert ((one - RHO).abs() < 5 * ((1 - RHO**2) / NUM).sqrt()).all()
    assert ((two - RHO**2).abs() < 5 * ((1 - RHO**4) / NUM).sqrt()).all()


def test_the_learning_coefficient_has_its_discretised_expectation(chains):
    loss = 0.5 * (H * chains[0] ** 2).sum(1)
    llc = TARGET.n_beta * loss.mean()
    error = TARGET.n_beta * loss.std() / NUM**0.5
    exact = 0.5 * (TARGET.n_beta * H / (A * (1 - LR * A / 4))).sum()
    continuous = 0.5 * (TARGET.n_beta * H / A).sum()
    assert abs(llc - exact) < 5 * error
    assert abs(llc - continuous) > 20 * error  # the step size is large enough for the two to be told apart


def test_sgld_is_unstable_beyond_the_stated_step():
    values, initial_weights = [torch.ones(1, 3, dtype=torch.float64)], [torch.zeros(1, 3, dtype=torch.float64)]
    for lr, stable in ((3.9 / float(A[2]), True), (4.1 / float(A[2]), False)):
        transition, w = plugins.kernel("sgld").build(TARGET, lr=lr), [values[0].clone()]
        for _ in range(400):
            transition.update(StepInputs(w, [H * w[0]], initial_weights, {}, [torch.zeros_like(w[0])]))
        assert (float(w[0].abs().max()) < 1) == stable


@pytest.mark.parametrize("weight_decay", [0.0, 0.7])
@pytest.mark.parametrize("localization", [0.0, 3.0])
def test_one_step_of_sgld_as_written_down(localization, weight_decay):
    target = Target(n_beta=20.0, localization=localization, weight_decay=weight_decay)
    w, g, w0, xi = torch.randn((4, 1, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradient = 20.0 * g + localization * (w - w0) + weight_decay * w
    values = [w.clone()]
    plugins.kernel("sgmcmc_sgld").build(target, lr=0.01).update(StepInputs(values, [g.clone()], [w0], {}, [xi.clone()]))
    torch.testing.assert_close(values[0], w - 0.005 * gradient + 0.1 * xi)


@pytest.mark.parametrize("weight_decay", [0.0, 0.7])
@pytest.mark.parametrize("localization", [0.0, 3.0])
def test_steps_of_rmsprop_as_written_down(localization, weight_decay):
    target = Target(n_beta=20.0, localization=localization, weight_decay=weight_decay)
    transition = plugins.kernel("rmsprop_sgld").build(target, lr=0.01, alpha=0.9, eps=0.2)
    generator = torch.Generator().manual_seed(0)
    w0 = torch.randn((2, 5), generator=generator, dtype=torch.float64)
    values, expected, V = [w0.clone()], w0.clone(), torch.zeros_like(w0)
    state = transition.init(values)
    assert float(state["square_average"][0].abs().max()) == 0
    for _ in range(4):
        g, xi = torch.randn((2, 2, 5), generator=generator, dtype=torch.float64)
        V = 0.9 * V + 0.1 * g**2
        G = 1 / (V.sqrt() + 0.2)
        gradient = 20.0 * g + localization * (expected - w0) + weight_decay * expected
        expected = expected - 0.005 * G * gradient + (0.01 * G).sqrt() * xi
        transition.update(StepInputs(values, [g.clone()], [w0], state, [xi.clone()]))
        torch.testing.assert_close(state["square_average"][0], V)
        torch.testing.assert_close(values[0], expected)


def test_rmsprop_as_published_starts_at_one_and_corrects():
    """The form of arXiv:2507.21449: V = 1 at first, G of V / (1 - alpha^t)."""
    transition = plugins.kernel("rmsprop_sgld").build(TARGET, lr=0.01, alpha=0.9, eps=0.2, bias_correction=True)
    generator = torch.Generator().manual_seed(0)
    w0 = torch.randn((2, 5), generator=generator, dtype=torch.float64)
    values, expected, V = [w0.clone()], w0.clone(), torch.ones_like(w0)
    state = transition.init(values)
    for t in range(1, 5):
        g, xi = torch.randn((2, 2, 5), generator=generator, dtype=torch.float64)
        V = 0.9 * V + 0.1 * g**2
        G = 1 / ((V / (1 - 0.9**t)).sqrt() + 0.2)
        gradient = TARGET.n_beta * g + TARGET.localization * (expected - w0)
        expected = expected - 0.005 * G * gradient + (0.01 * G).sqrt() * xi
        transition.update(StepInputs(values, [g.clone()], [w0], state, [xi.clone()]))
        torch.testing.assert_close(state["square_average"][0], V)
        torch.testing.assert_close(values[0], expected)


def test_the_first_steps_of_rmsprop_as_published_have_their_exact_law():
    """Without a potential, and with gradients of constant size, the variance of the weights is lr times the sum of G."""
    alpha, eps, lr, chains, steps = 0.95, 0.1, 0.5, 40_000, 60
    g = torch.tensor([0.02, 0.3, 5.0], dtype=torch.float64)
    for published in (False, True):
        options = {"lr": lr, "alpha": alpha, "eps": eps, "bias_correction": published}
        transition = plugins.kernel("rmsprop_sgld").build(Target(n_beta=0.0), **options)
        initial_weights = [torch.zeros(chains, 3, dtype=torch.float64)]
        values = [initial_weights[0].clone()]
        state, generator = transition.init(values), torch.Generator().manual_seed(0)
        expected = torch.zeros_like(g)
        for t in range(1, steps + 1):
            noise = torch.randn(values[0].shape, generator=generator, dtype=torch.float64)
            transition.update(StepInputs(values, [g.expand(chains, 3).clone()], initial_weights, state, [noise]))
            # The mean of t equal squares, and what is left of the start.
            V = g**2 + alpha**t / (1 - alpha**t) if published else g**2 * (1 - alpha**t)
            expected += lr / (V.sqrt() + eps)
        assert ((values[0].var(0) / expected - 1).abs() < 5 * (2 / chains) ** 0.5).all()


def test_rmsprop_without_memory_or_gradient_is_sgld_scaled():
    """With no gradient ``V`` stays 0 and the preconditioner is ``1 / eps``: SGLD with step size ``lr / eps``, exactly."""
    w, w0, xi = torch.randn((3, 1, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rmsprop = plugins.kernel("rmsprop_sgld").build(TARGET, lr=0.01, eps=0.1)
    ours, theirs = [w.clone()], [w.clone()]
    rmsprop.update(StepInputs(ours, [torch.zeros_like(w)], [w0], rmsprop.init(ours), [xi.clone()]))
    plugins.kernel("sgld").build(TARGET, lr=0.01 / 0.1).update(
        StepInputs(theirs, [torch.zeros_like(w)], [w0], {}, [xi.clone()])
    )
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize("alpha", [-0.1, 1.0, 1.5, math.nan])
def test_rmsprop_refuses_alpha(alpha):
    with pytest.raises(InvalidInputError, match=rf"`alpha` \(={alpha}\) must be at least 0 and below 1"):
        plugins.kernel("rmsprop_sgld").build(TARGET, lr=0.01, alpha=alpha)


@pytest.mark.parametrize("eps", [0.0, -1.0, math.inf, math.nan])
def test_rmsprop_refuses_eps(eps):
    with pytest.raises(InvalidInputError, match=rf"`eps` \(={eps}\) must be positive and finite"):
        plugins.kernel("rmsprop_sgld").build(TARGET, lr=0.01, eps=eps)


def test_rmsprop_refuses_a_correction_that_is_a_number():
    with pytest.raises(InvalidInputError, match=r"`bias_correction` \(=1\) must be True or False"):
        inspect.unwrap(plugins.kernel("rmsprop_sgld").build)(TARGET, lr=0.01, bias_correction=1)


def test_defaults_are_those_of_the_field():
    transition = plugins.kernel("rmsprop_sgld").build(TARGET, lr=0.01)
    assert (transition.alpha, transition.eps, transition.bias_correction) == (0.99, 0.1, False)
    assert np.isclose(transition.lr, 0.01)
