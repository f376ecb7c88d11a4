"""Small targets on which kernels are compared: many chains side by side, without a model, on losses written down.

Quadratics have an exact expectation, and most kernels an exact bias at a finite step, too; of reduced-rank regression a long
run of BAOAB at a small step, started where chains end up, is taken for it. Steps are in units of one over the largest second
derivative of the potential at the minimum, in the coordinates of the preconditioner where there is one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from devinterp import plugins
from devinterp.types import StepInputs, Target
from devinterp_bench.efficiency import Case, Trial, trial_of

NUM_CHAINS, NUM_BURNIN_STEPS = 128, 500
STEPS = (0.05, 0.1, 0.17, 0.3, 0.5, 1.0, 2.0, 3.5)
CASES = (
    Case("sgld", {}, STEPS),
    Case("leimkuhler_matthews", {}, STEPS),
    Case("baoab", {"friction": 0.2}, STEPS),
    Case("baoab", {"friction": 0.5}, STEPS),
    Case("sghmc", {"friction": 0.1}, STEPS),
    Case("sgnht", {"diffusion": 0.2}, STEPS),
)
#: With a preconditioner whose eps is far below the size of gradients; it adapts for `NUM_BURNIN_STEPS`.
_ADAPTIVE = {"alpha": 0.99, "eps": 1e-5}
_FROZEN = {**_ADAPTIVE, "num_adaptation_steps": NUM_BURNIN_STEPS}
PRECONDITIONED = (
    Case("rmsprop_sgld", {**_ADAPTIVE, "gamma": True}, STEPS),
    Case("rmsprop_sgld", _ADAPTIVE, STEPS),
    Case("rmsprop_leimkuhler_matthews", _FROZEN, STEPS),
    Case("rmsprop_baoab", {"friction": 0.2, **_FROZEN}, STEPS),
    Case("rmsprop_baoab", {"friction": 0.5, **_FROZEN}, STEPS),
)


@runtime_checkable
class KnownTarget(Protocol):
    """A loss whose tempered mean is known."""

    n_beta: float
    localization: float
    stiffness: float
    num_draws: int
    llc: float
    llc_error: float

    def start(self) -> list[Tensor]:
        """Return the initial weights, ``(chain, *shape)``."""
        ...

    def warmed_up(self, generator: torch.Generator) -> list[Tensor]:
        """Return weights from where chains have little left to forget, ``(chain, *shape)``."""
        ...

    def loss_and_gradients(self, values: list[Tensor], generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        """Return the loss ``(chain)`` and the gradient that a minibatch gives."""
        ...

    def preconditioned_stiffness(self, eps: float) -> float:
        """Return the largest second derivative of the potential in the coordinates of RMSprop's preconditioner."""
        ...

    def expected(self, case: Case, step: float) -> float:
        """Return the exact coefficient of a kernel's chain at this step, NaN where no law is known."""
        ...


@dataclass
class Quadratic:
    """A quadratic loss; minibatches give its gradient noise whose variance is proportional to the curvature.

    Parameters
    ----------
    curvatures : Tensor
        Its second derivatives.
    n_beta : float
        Inverse temperature times sample size.
    num_draws : int
        Steps of each chain after burn-in.
    noise : float, default: 0.0
        What minibatches add to SGLD's variance in the stiffest direction, relatively, at a step of 1.
    """

    curvatures: Tensor
    n_beta: float
    num_draws: int
    noise: float = 0.0
    localization: float = 1.0
    llc_error: float = 0.0

    def __post_init__(self) -> None:
        slopes = self.n_beta * self.curvatures
        self.stiffness = float(slopes.max()) + self.localization
        self.llc = float((slopes / (slopes + self.localization)).sum() / 2)
        variance = self.noise * 4 * self.stiffness * self.curvatures / self.curvatures.max()
        self._spread = variance.sqrt() / self.n_beta

    def start(self) -> list[Tensor]:
        """Return zeros."""
        return [torch.zeros(NUM_CHAINS, len(self.curvatures), dtype=torch.float64)]

    def warmed_up(self, generator: torch.Generator) -> list[Tensor]:
        """Return draws from the target."""
        a = self.n_beta * self.curvatures + self.localization
        return [torch.randn(NUM_CHAINS, len(a), generator=generator, dtype=torch.float64) / a.sqrt()]

    def loss_and_gradients(self, values: list[Tensor], generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        """Return the loss and its gradient with noise."""
        (w,) = values
        gradient = self.curvatures * w
        loss = (gradient * w).sum(1) / 2
        if self.noise:
            gradient = gradient + self._spread * torch.randn(w.shape, generator=generator, dtype=w.dtype)
        return loss, [gradient]

    def preconditioned_stiffness(self, eps: float) -> float:
        """Return it for gradients without minibatch noise, whose variance is their curvature over n_beta."""
        scale = 1 / ((self.curvatures / self.n_beta).sqrt() + eps)
        return float((scale * (self.n_beta * self.curvatures + self.localization)).max())

    def expected(self, case: Case, step: float) -> float:
        """Return the coefficient by the laws of docs/kernels.md; NaN for `sgnht` and `rmsprop_sgld`."""
        slopes = self.n_beta * self.curvatures
        a = slopes + self.localization
        if case.kernel in ("rmsprop_leimkuhler_matthews", "rmsprop_baoab") and not self.noise:
            return float((slopes / a).sum() / 2)
        x = step * a / self.stiffness
        rho = step * self.noise * self.curvatures / self.curvatures.max()
        friction = case.options.get("friction", 1.0)
        if case.kernel == "sgld":
            excess = (1 + rho) / (1 - x / 4)
        elif case.kernel in ("leimkuhler_matthews", "baoab"):
            excess = 1 + rho * (2 - friction) / friction / (1 - x / 4)
        elif case.kernel == "sghmc":
            excess = (1 + rho / friction) / (1 - x / (4 * (2 - friction)))
        else:
            return math.nan
        return float((slopes / a * excess).sum() / 2)


class ReducedRank:
    """Reduced-rank regression 4-3-4 of true rank 1, with its own long run for the truth.

    Parameters
    ----------
    precision : float
        ``n_beta`` over the noise variance of 10.
    localization : float
        Strength of localization.
    """

    num_draws = 3000

    def __init__(self, precision: float, localization: float) -> None:
        self.n_beta, self.localization = 10 * precision, localization
        self.llc = self.llc_error = math.nan  # until the long run has been made
        self.stiffness = self.n_beta * 2 / 10 + localization
        A, B = torch.zeros(3, 4, dtype=torch.float64), torch.zeros(4, 3, dtype=torch.float64)
        A[0, 0] = B[0, 0] = 1
        self._initial, self._product = (A, B), B @ A
        reference = Case("baoab", {"friction": 0.2}, (0.05,))
        _, values = run_kernel(self, reference, 0.05, self.start(), 6000)
        losses, self._end = run_kernel(self, reference, 0.05, values, 8000)
        llc = self.n_beta * losses
        self.llc, self.llc_error = float(llc.mean()), float(llc.mean(1).std(ddof=1)) / NUM_CHAINS**0.5

    def start(self) -> list[Tensor]:
        """Return the most singular true weights."""
        return [w.expand(NUM_CHAINS, *w.shape).clone() for w in self._initial]

    def warmed_up(self, generator: torch.Generator) -> list[Tensor]:
        """Return the weights at the end of the long run."""
        return [w.clone() for w in self._end]

    def loss_and_gradients(self, values: list[Tensor], generator: torch.Generator) -> tuple[Tensor, list[Tensor]]:
        """Return the loss and its gradient."""
        A, B = values
        errors = B @ A - self._product
        return errors.square().sum((1, 2)) / 20, [B.mT @ errors / 10, errors @ A.mT / 10]

    def preconditioned_stiffness(self, eps: float) -> float:
        """Refuse: the gradients of this loss have no fixed size."""
        raise NotImplementedError("no preconditioned kernels are compared on this target")

    def expected(self, case: Case, step: float) -> float:
        """Return NaN: no law is known."""
        return math.nan


def run_kernel(
    target: KnownTarget, case: Case, step: float, values: list[Tensor], num_steps: int
) -> tuple[np.ndarray, list[Tensor]]:
    """Return the losses at every step, ``(chain, step)``, and the last weights; losses are NaN if a chain diverged."""
    density = Target(n_beta=target.n_beta, localization=target.localization)
    eps = case.options.get("eps")
    stiffness = target.stiffness if eps is None else target.preconditioned_stiffness(eps)
    kernel = plugins.kernel(case.kernel).build(density, lr=step / stiffness, **case.options)
    generator = torch.Generator().manual_seed(0)
    initial_weights, state, losses = target.start(), kernel.init(values), np.empty((num_steps, NUM_CHAINS))
    for n in range(num_steps):
        loss, gradients = target.loss_and_gradients(values, generator)
        losses[n] = loss
        if not np.isfinite(losses[n]).all():
            return np.full((NUM_CHAINS, num_steps), np.nan), values
        noise = (torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in values)
        kernel.update(StepInputs(values, gradients, initial_weights, state, noise))
    return losses.T, values


def run_known(name: str, target: KnownTarget, case: Case, step: float) -> Trial:
    """Sample a known target with a kernel at one step size; the error is from the spread of its chains."""
    values = target.warmed_up(torch.Generator().manual_seed(1))
    began = time.process_time()
    losses, _ = run_kernel(target, case, step, values, NUM_BURNIN_STEPS + target.num_draws)
    seconds = (time.process_time() - began) / losses.size
    llc = target.n_beta * losses[:, NUM_BURNIN_STEPS:]
    error = float(llc.mean(1).std(ddof=1)) / math.sqrt(NUM_CHAINS)
    return trial_of(name, case, step, llc, float(llc.mean()), error, seconds)


def by_law(trial: Trial, expected: float) -> Trial:
    """Return a trial with its exact expectation, where that is known, so that chance does not decide which step is best."""
    return replace(trial, estimate=expected, error=0.0) if math.isfinite(expected) else trial


def quadratic(condition: float, n_beta: float, num_draws: int, noise: float = 0.0) -> Quadratic:
    """Return a quadratic in eight dimensions whose largest curvature is `condition` times the least."""
    curvatures = torch.logspace(0, -math.log10(condition), 8, dtype=torch.float64) / 10
    return Quadratic(curvatures, n_beta, num_draws, noise)


#: Each target and the kernels that are compared on it.
KNOWN_TARGETS: Mapping[str, tuple[Callable[[], KnownTarget], tuple[Case, ...]]] = {
    "quadratic, condition 8": (lambda: quadratic(8, 3000.0, 2000), CASES),
    "quadratic, condition 1000": (lambda: quadratic(1000, 1e5, 4000), CASES),
    "quadratic, condition 1000, minibatch noise 0.02": (lambda: quadratic(1000, 1e5, 4000, 0.02), CASES),
    "quadratic, condition 1000, minibatch noise 0.1": (lambda: quadratic(1000, 1e5, 4000, 0.1), CASES),
    "reduced rank, n_beta 3000, localization 1": (lambda: ReducedRank(300.0, 1.0), CASES),
    "reduced rank, n_beta 10000, localization 10": (lambda: ReducedRank(1000.0, 10.0), CASES),
    "quadratic, condition 1000, preconditioned": (lambda: quadratic(1000, 1e5, 4000), PRECONDITIONED),
}
