"""How many effective draws a gradient buys with each kernel, at the best step whose bias is at most 2 %: docs/kernels.md."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from devinterp import plugins
from devinterp.types import StepInputs, Target

pytestmark = pytest.mark.benchmark

CASES = (
    ("sgld", {}),
    ("leimkuhler_matthews", {}),
    ("sghmc", {"friction": 0.1}),
    ("sgnht", {"diffusion": 0.2}),
    ("baoab", {"friction": 0.2}),
    ("baoab", {"friction": 0.5}),
)
#: Steps, in units of one over the largest second derivative of U at the minimum.
STEPS = (0.05, 0.1, 0.2, 0.3, 0.45, 0.7, 1.0, 1.5, 2.0, 3.0, 3.5)
NUM_CHAINS, NUM_BURNIN_STEPS = 256, 500


@dataclass
class Diagonal:
    """A quadratic loss; minibatches give its gradient noise whose variance is proportional to the curvature."""

    curvatures: torch.Tensor
    n_beta: float
    localization: float = 1.0
    noise: float = 0.0  # rho of SGLD in the stiffest direction, at a step of 1
    num_steps: int = 3000

    def __post_init__(self):
        slopes = self.n_beta * self.curvatures
        self.stiffness = float(slopes.max()) + self.localization
        self.llc = float((slopes / (slopes + self.localization)).sum() / 2)
        noise_of_slopes = self.noise * 4 * self.stiffness * self.curvatures / self.curvatures.max()
        self.spread = noise_of_slopes.sqrt() / self.n_beta

    def start(self):
        return [torch.zeros(NUM_CHAINS, len(self.curvatures), dtype=torch.float64)]

    def warmed_up(self, generator):
        a = self.n_beta * self.curvatures + self.localization
        return [torch.randn(NUM_CHAINS, len(a), generator=generator, dtype=torch.float64) / a.sqrt()]

    def loss_and_gradients(self, values, generator):
        (w,) = values
        noise = self.spread * torch.randn(w.shape, generator=generator, dtype=w.dtype) if self.noise else 0.0
        return (self.curvatures * w * w).sum(1) / 2, [self.curvatures * w + noise]


class ReducedRank:
    """Reduced-rank regression 4-3-4 of true rank 1; the reference is a long run of BAOAB at a small step."""

    num_steps = 3000

    def __init__(self, precision, localization):
        self.n_beta, self.localization = 10 * precision, localization
        self.stiffness = self.n_beta * 2 / 10 + localization
        A, B = torch.zeros(3, 4, dtype=torch.float64), torch.zeros(4, 3, dtype=torch.float64)
        A[0, 0] = B[0, 0] = 1
        self.initial, self.product = (A, B), B @ A
        values = run(self, "baoab", 0.05, self.start(), 6000, {})[1]
        losses, self.end = run(self, "baoab", 0.05, values, 12_000, {})
        self.llc = self.n_beta * float(losses.mean())

    def start(self):
        return [w.expand(NUM_CHAINS, *w.shape).clone() for w in self.initial]

    def warmed_up(self, generator):
        return [w.clone() for w in self.end]

    def loss_and_gradients(self, values, generator):
        A, B = values
        errors = B @ A - self.product
        return errors.square().sum((1, 2)) / 20, [B.mT @ errors / 10, errors @ A.mT / 10]


def run(problem, name, step, values, num_steps, options):
    """Return the losses at every step, ``(step, chain)``, and the last weights."""
    target = Target(n_beta=problem.n_beta, localization=problem.localization)
    kernel = plugins.kernel(name).build(target, lr=step / problem.stiffness, **options)
    generator = torch.Generator().manual_seed(0)
    initial_weights, state, losses = problem.start(), kernel.init(values), np.empty((num_steps, NUM_CHAINS))
    for n in range(num_steps):
        loss, gradients = problem.loss_and_gradients(values, generator)
        losses[n] = loss
        if not np.isfinite(losses[n]).all():
            return np.full_like(losses, np.nan), values
        noise = (torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in values)
        kernel.update(StepInputs(values, gradients, initial_weights, state, noise))
    return losses, values


def autocorrelation_time(losses):
    """Return the integrated autocorrelation time in steps, from autocovariances averaged over chains (Geyer's sequence)."""
    n = len(losses)
    spectrum = np.abs(np.fft.rfft(losses - losses.mean(), 2 * n, axis=0)) ** 2
    covariance = np.fft.irfft(spectrum, axis=0)[:n].mean(1) / np.arange(n, 0, -1)
    pairs = covariance[:-1:2] + covariance[1::2]
    positive = np.argmax(pairs <= 0) if (pairs <= 0).any() else len(pairs)
    return 2 * pairs[:positive].sum() / covariance[0] - 1


def best(problem, name, options):
    """Return step, relative bias and autocorrelation time at the step that mixes fastest within 2 % of bias."""
    fastest = (math.nan, math.nan, math.inf)
    for step in STEPS:
        values = problem.warmed_up(torch.Generator().manual_seed(1))
        losses, _ = run(problem, name, step, values, NUM_BURNIN_STEPS + problem.num_steps, options)
        llc = problem.n_beta * losses[NUM_BURNIN_STEPS:]
        bias, error = llc.mean() / problem.llc - 1, llc.mean(0).std() / NUM_CHAINS**0.5 / problem.llc
        if abs(bias) <= 0.02 + error:
            fastest = min(fastest, (step, bias, autocorrelation_time(llc)), key=lambda row: row[2])
    return fastest


def condition(number, n_beta, **options):
    return Diagonal(torch.logspace(0, -math.log10(number), 8, dtype=torch.float64) / 10, n_beta, **options)


PROBLEMS = {
    "quadratic, condition 8": (lambda: condition(8, 3000.0), 7),
    "quadratic, condition 1000": (lambda: condition(1000, 1e5, num_steps=6000), 20),
    "quadratic, condition 1000, minibatch noise": (lambda: condition(1000, 1e5, num_steps=6000, noise=0.02), 4),
    "reduced rank, precision 300, localization 1": (lambda: ReducedRank(300.0, 1.0), 10),
    "reduced rank, precision 1000, localization 10": (lambda: ReducedRank(1000.0, 10.0), 10),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_effective_draws_for_each_gradient(name):
    make, at_least = PROBLEMS[name]
    problem, ratios = make(), {}
    for kernel, options in CASES:
        step, bias, time = best(problem, kernel, options)
        reference = time if kernel == "sgld" else reference
        ratios[kernel, *options.values()] = reference / time
        print(
            f"{name}: {kernel} {options}: step {step:g}, bias {bias:+.1%}, tau {time:.1f}, {reference / time:.1f} times"
        )
    assert ratios["baoab", 0.2] > at_least
