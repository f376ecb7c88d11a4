"""Run kernels on problems with known learning coefficients, and compare the estimates with these."""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
import xarray as xr

from devinterp.analyses.llc import compute_llc
from devinterp.errors import DivergenceWarning
from devinterp.slt.sampling import sample
from devinterp_bench.corrections import NEEDS, corrections
from devinterp_bench.problems import Problem

_NAN = float("nan")


@dataclass(frozen=True)
class Effort:
    """Number of chains and steps that are sampled on each problem.

    Parameters
    ----------
    num_seeds : int
        Independent estimates.
    num_chains : int
        Chains of each estimate.
    num_burnin_steps, num_draws : int
        Steps of each chain that estimates leave out, and those they use.
    relative_lr : float
        Step size times the largest second derivative of the potential (`Problem.lr`); SGLD is unstable from 4 on.
    """

    num_seeds: int = 3
    num_chains: int = 64
    num_burnin_steps: int = 4000
    num_draws: int = 16_000
    relative_lr: float = 0.1


#: The effort of `devinterp bench accuracy --quick`.
QUICK = Effort(num_seeds=1, num_chains=8, num_burnin_steps=200, num_draws=600, relative_lr=0.3)

#: Step sizes of preconditioned kernels are in units of their preconditioner, which is 1 / eps where gradients are small.
_LR_FACTOR = {"rmsprop_sgld": 0.1}


@dataclass(frozen=True)
class Measurement:
    """One estimate of a learning coefficient, and the exact value.

    Parameters
    ----------
    problem, family, kernel : str
        Name and family of the problem; the kernel with its options.
    seed : int
        Number of the independent estimate.
    truth : float
        The exact learning coefficient.
    multiplicity : int
        Its multiplicity: where above 1, estimates at finite ``n_beta`` are expected to be about ``(m - 1) / log n_beta``
        too small.
    estimate, error : float
        ``llc_mean`` and ``llc_se``; NaN where all chains diverged.
    relative_error : float
        ``estimate / truth - 1``.
    step_corrected, corrected : float
        The estimate less what the size of steps adds to it to first order, and less what localization does, too; NaN where
        the former is not known.
    ess_per_gradient : float
        Effective samples of the loss after burn-in, for each gradient of each chain, burn-in included.
    seconds : float
        Wall time, an equal share of the run that all seeds had in common.
    num_diverged : int
        Chains that diverged and were left out.
    """

    problem: str
    family: str
    kernel: str
    seed: int
    truth: float
    multiplicity: int
    estimate: float
    error: float
    relative_error: float
    step_corrected: float
    corrected: float
    ess_per_gradient: float
    seconds: float
    num_diverged: int


def measure(
    problem: Problem, kernel: str, effort: Effort, *, options: Mapping[str, Any] | None = None, seed: int = 0
) -> list[Measurement]:
    """Sample a problem with a kernel and return one measurement for each seed.

    Parameters
    ----------
    problem : Problem
        What to sample.
    kernel : str
        The sampling method.
    effort : Effort
        Chains and steps. All seeds are chains of one run, side by side: noise differs from chain to chain as from seed to
        seed.
    options : mapping, optional
        Options of the kernel.
    seed : int, default: 0
        Seeds the noise.
    """
    options = dict(options or {})
    lr = problem.lr(effort.relative_lr * _LR_FACTOR.get(kernel, 1.0))
    began = time.perf_counter()
    tree = _sampled(problem, kernel, effort, lr, options, seed)
    seconds = (time.perf_counter() - began) / effort.num_seeds
    gradients = effort.num_chains * (effort.num_burnin_steps + effort.num_draws)
    truth = float(problem.truth.value)
    measurements = []
    for number in range(effort.num_seeds):
        chains = range(number * effort.num_chains, (number + 1) * effort.num_chains)
        part = tree.isel(chain=[chain for chain in chains if _is_finished(tree, chain)])
        estimates = _estimates(part, problem, kernel, lr, options)
        measurements.append(
            Measurement(
                problem=problem.name,
                family=problem.family,
                kernel=" ".join([kernel, *(f"{name}={value}" for name, value in options.items())]),
                seed=number,
                truth=truth,
                multiplicity=problem.truth.multiplicity,
                estimate=estimates["estimate"],
                error=estimates["error"],
                relative_error=estimates["estimate"] / truth - 1,
                step_corrected=estimates["step_corrected"],
                corrected=estimates["corrected"],
                ess_per_gradient=estimates["ess"] / gradients,
                seconds=seconds,
                num_diverged=effort.num_chains - part.sizes["chain"],
            )
        )
    return measurements


def _sampled(
    problem: Problem, kernel: str, effort: Effort, lr: float, options: dict[str, Any], seed: int
) -> xr.DataTree:
    """Return one run that holds the chains of all seeds."""
    model = problem.model()
    data = problem.data(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)  # reported as a number
        tree = sample(
            model,
            data,
            lr=lr,
            n_beta=problem.n_beta,
            localization=problem.localization,
            num_chains=effort.num_seeds * effort.num_chains,
            num_draws=effort.num_draws,
            num_burnin_steps=effort.num_burnin_steps,
            batch_size=len(data[0]),
            num_init_loss_batches=1,
            init_seed=seed,
            loss_fn=problem.loss_fn,
            sampling_method=kernel,
            sampling_method_kwargs=options,
            save_metrics=NEEDS,
            chains="vectorized",
            progress=False,
        )
    assert isinstance(tree, xr.DataTree)
    return tree


def _is_finished(tree: xr.DataTree, chain: int) -> bool:
    return bool((tree["status/error"].isel(chain=chain) == "").all())


def _estimates(
    part: xr.DataTree, problem: Problem, kernel: str, lr: float, options: dict[str, float]
) -> dict[str, float]:
    if not part.sizes["chain"]:
        return dict.fromkeys(("estimate", "error", "step_corrected", "corrected", "ess"), _NAN)
    result = compute_llc(part)
    estimate = float(result["llc_mean"])
    excess = corrections(part, lr=lr, localization=problem.localization, kernel=kernel, options=options)
    return {
        "estimate": estimate,
        "error": float(result["llc_se"]),
        "step_corrected": estimate - excess["step_size"],
        "corrected": estimate - excess["step_size"] - excess["localization"],
        "ess": float(result["ess"]),
    }


def measure_all(
    problems: Sequence[Problem], kernels: Iterable[str], effort: Effort, *, seed: int = 0
) -> Iterator[Measurement]:
    """Yield the measurements of every kernel on every problem."""
    for kernel in kernels:
        for problem in problems:
            yield from measure(problem, kernel, effort, seed=seed)


def summarise(measurements: Sequence[Measurement]) -> dict[str, dict[str, float]]:
    """Return figures of each kernel over all its measurements.

    Returns
    -------
    dict of str to dict
        By kernel: ``median_relative_error`` and ``worst_relative_error`` (absolute values, over problems, of means over
        seeds), the median with corrections, that of single seeds,
        ``in_order`` (share of pairs of problems with different truths that the estimates, averaged over seeds, put in the right
        order), ``median_ess_per_gradient``, ``seconds`` in total, ``num_problems`` and ``num_diverged``.
    """
    figures = {}
    for kernel in dict.fromkeys(m.kernel for m in measurements):
        mine = [m for m in measurements if m.kernel == kernel]
        by_problem = [[m for m in mine if m.problem == name] for name in dict.fromkeys(m.problem for m in mine)]
        errors = {
            which: [abs(float(np.mean([getattr(m, which) for m in each])) / each[0].truth - 1) for each in by_problem]
            for which in ("estimate", "step_corrected", "corrected")
        }
        figures[kernel] = {
            "median_relative_error": _median(errors["estimate"]),
            "median_relative_error_step_corrected": _median(errors["step_corrected"]),
            "median_relative_error_corrected": _median(errors["corrected"]),
            "worst_relative_error": max(errors["estimate"], default=_NAN),
            "median_relative_error_of_a_seed": _median(abs(m.relative_error) for m in mine),
            "in_order": _in_order(mine),
            "median_ess_per_gradient": _median(m.ess_per_gradient for m in mine),
            "seconds": sum(m.seconds for m in mine),
            "num_problems": len(by_problem),
            "num_diverged": sum(m.num_diverged for m in mine),
        }
    return figures


def _median(values: Iterable[float]) -> float:
    """Return the median, NaN if any value is: leaving out problems on which chains diverged would flatter a kernel."""
    numbers = list(values)
    return statistics.median(numbers) if numbers and not any(map(math.isnan, numbers)) else _NAN


def _in_order(measurements: Sequence[Measurement]) -> float:
    truths, estimates = {}, {}
    for problem in dict.fromkeys(m.problem for m in measurements):
        mine = [m for m in measurements if m.problem == problem]
        truths[problem], estimates[problem] = mine[0].truth, float(np.mean([m.estimate for m in mine]))
    pairs = [(a, b) if truths[a] < truths[b] else (b, a) for a, b in combinations(truths, 2) if truths[a] != truths[b]]
    return sum(estimates[a] < estimates[b] for a, b in pairs) / len(pairs) if pairs else _NAN


def to_json(measurements: Sequence[Measurement]) -> list[dict[str, Any]]:
    """Return measurements as JSON-able values: a missing number is None."""
    return [
        {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in asdict(m).items()}
        for m in measurements
    ]
