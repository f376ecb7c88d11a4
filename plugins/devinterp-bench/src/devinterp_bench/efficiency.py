r"""How many effective draws a gradient buys with each kernel, at the step that mixes fastest without too large a bias.

A *trial* is one kernel at one step on one problem. Of a kernel's trials whose estimate is within 2 % of the exact coefficient,
or of that of a long reference chain, the one with most effective draws for each gradient counts, and kernels are compared by
the ratio of these figures to that of SGLD. At equal bias this ratio is that of the gradients that the same error takes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from devinterp.analyses.common.convergence import ess
from devinterp.analyses.common.uncertainty import jackknife_error

#: The largest relative bias of a trial that counts.
MOST_BIAS = 0.02


@dataclass(frozen=True)
class Case:
    """A kernel, its options, and the steps at which it is tried.

    Parameters
    ----------
    kernel : str
        The sampling method.
    options : mapping
        Its options.
    steps : tuple of float
        Step sizes, in the unit of the problem.
    num_burnin_steps, num_draws : int, optional
        Steps of each chain that are left out, and draws, where the problem's own numbers are not right.
    spacing : int, default: 1
        Steps from one draw to the next: some for kernels that hardly move in one.
    """

    kernel: str
    options: Mapping[str, float]
    steps: tuple[float, ...]
    num_burnin_steps: int | None = None
    num_draws: int | None = None
    spacing: int = 1

    @property
    def label(self) -> str:
        """Return the kernel with its options."""
        return " ".join([self.kernel, *(f"{name}={value:g}" for name, value in self.options.items())])


@dataclass(frozen=True)
class Trial:
    """The estimate of one kernel at one step, and what it cost.

    Parameters
    ----------
    problem, kernel : str
        The problem; the kernel with its options.
    step : float
        The step size, in the unit of the problem.
    estimate, error : float
        The learning coefficient and its standard error; NaN where a chain diverged.
    draws_per_gradient, draws_error : float
        Effective draws of the loss of fixed data for each gradient after burn-in, and the standard error of that.
    seconds_per_gradient : float
        Seconds of processor time, which depend on how busy the machine is far less than the clock does.
    num_gradients : int
        Gradients after burn-in, of all chains.
    """

    problem: str
    kernel: str
    step: float
    estimate: float
    error: float
    draws_per_gradient: float
    draws_error: float
    seconds_per_gradient: float
    num_gradients: int


@dataclass(frozen=True)
class Comparison:
    """The best trial of a kernel on a problem, beside that of the baseline.

    Parameters
    ----------
    best : Trial or None
        The trial with most effective draws for each gradient whose bias is small enough; None if there is none.
    kernel : str
        The kernel with its options.
    bias, bias_error : float
        Relative bias of its estimate, and the standard error of that, the reference's included.
    per_gradient, per_gradient_error : float
        Its effective draws for each gradient, relative to the baseline's.
    per_second : float
        The same for each second.
    """

    best: Trial | None
    kernel: str
    bias: float
    bias_error: float
    per_gradient: float
    per_gradient_error: float
    per_second: float


def effective_draws(series: np.ndarray, num_blocks: int = 16) -> tuple[float, float]:
    """Return the effective draws for each draw of series ``(chain, draw)``, and the jackknife error over blocks of them.

    Parameters
    ----------
    series : numpy.ndarray
        Equilibrated chains.
    num_blocks : int, default: 16
        Blocks are groups of chains where there are at least as many, else equal parts of each chain, which should be many
        times longer than it remembers.
    """
    parts_of_chain = max(1, num_blocks // len(series))
    length = series.shape[1] // parts_of_chain
    blocks = series[:, : length * parts_of_chain].reshape(-1, length)
    groups = np.array_split(np.arange(len(blocks)), min(num_blocks, len(blocks)))
    value = float(ess(series)) / series.size
    if len(groups) < 2:
        return value, math.nan
    left_out = [float(ess(np.delete(blocks, group, axis=0))) / (len(blocks) - len(group)) / length for group in groups]
    return value, float(jackknife_error(left_out))


def compare(
    trials: Sequence[Trial], truth: float, truth_error: float = 0.0, *, baseline: str | None = None
) -> list[Comparison]:
    """Return for each kernel its best trial on one problem, and its ratio to the baseline's.

    Parameters
    ----------
    trials : sequence of Trial
        All trials on the problem.
    truth, truth_error : float
        The coefficient that estimates are compared to, and its standard error.
    baseline : str, optional
        Label of the kernel that others are compared to. Default: that of the first trial.
    """
    kernels = list(dict.fromkeys(trial.kernel for trial in trials))
    best = {kernel: _best((t for t in trials if t.kernel == kernel), truth) for kernel in kernels}
    reference = best[kernels[0] if baseline is None else baseline]
    return [_comparison(kernel, best[kernel], reference, truth, truth_error) for kernel in kernels]


def _best(trials: Iterable[Trial], truth: float) -> Trial | None:
    unbiased = [t for t in trials if abs(t.estimate / truth - 1) <= MOST_BIAS and math.isfinite(t.draws_per_gradient)]
    return max(unbiased, key=lambda trial: trial.draws_per_gradient, default=None)


def _comparison(
    kernel: str, best: Trial | None, reference: Trial | None, truth: float, truth_error: float
) -> Comparison:
    if best is None:
        return Comparison(None, kernel, *[math.nan] * 5)
    bias_error = math.hypot(best.error, truth_error) / truth
    if reference is None:
        return Comparison(best, kernel, best.estimate / truth - 1, bias_error, *[math.nan] * 3)
    ratio = best.draws_per_gradient / reference.draws_per_gradient
    errors = [] if best is reference else [t.draws_error / t.draws_per_gradient for t in (best, reference)]
    return Comparison(
        best=best,
        kernel=kernel,
        bias=best.estimate / truth - 1,
        bias_error=bias_error,
        per_gradient=ratio,
        per_gradient_error=ratio * math.hypot(*errors),
        per_second=ratio * reference.seconds_per_gradient / best.seconds_per_gradient,
    )


def trial_of(
    problem: str, case: Case, step: float, series: np.ndarray, estimate: float, error: float, seconds: float
) -> Trial:
    """Return a trial from the series of its draws.

    Parameters
    ----------
    problem : str
        Name of the problem.
    case : Case
        The kernel.
    step : float
        The step size.
    series : numpy.ndarray
        Losses of all draws after burn-in, ``(chain, draw)``.
    estimate, error : float
        The learning coefficient and its standard error.
    seconds : float
        Seconds of processor time for each gradient.
    """
    finite = bool(np.isfinite(series).all())
    draws, draws_error = (x / case.spacing for x in effective_draws(series)) if finite else (math.nan, math.nan)
    return Trial(
        problem=problem,
        kernel=case.label,
        step=step,
        estimate=estimate if finite else math.nan,
        error=error if finite else math.nan,
        draws_per_gradient=draws,
        draws_error=draws_error,
        seconds_per_gradient=seconds,
        num_gradients=series.size * case.spacing,
    )


def trial_from_json(stored: Mapping[str, Any]) -> Trial:
    """Return a trial from what `devinterp_bench.summary.to_json` made of it."""
    figures: dict[str, Any] = {name: math.nan if value is None else value for name, value in stored.items()}
    return Trial(**figures)
