"""Run kernels on problems with known learning coefficients, and compare the estimates with these."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
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
    lr : float, optional
        One step size for all problems, instead.
    """

    num_seeds: int = 3
    num_chains: int = 64
    num_burnin_steps: int = 4000
    num_draws: int = 16_000
    relative_lr: float = 0.1
    lr: float | None = None


#: The effort of `devinterp bench accuracy --quick`.
QUICK = Effort(num_seeds=1, num_chains=8, num_burnin_steps=200, num_draws=600, relative_lr=0.3)

#: Step sizes of preconditioned kernels are in units of their preconditioner, which is 1 / eps where gradients are small.
_LR_FACTOR = {"rmsprop_sgld": 0.1, "rmsprop_leimkuhler_matthews": 0.1, "rmsprop_baoab": 0.1}


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
    n_beta, localization, lr : float
        The settings it was sampled with.
    estimate, error : float
        ``paired_llc_mean`` and ``paired_llc_se``; NaN where all chains diverged.
    relative_error : float
        ``estimate / truth - 1``.
    step_corrected, corrected : float
        The estimate less what the size of steps adds to it to first order, and less what localization does, too; NaN where
        one of them is not known (`devinterp_bench.corrections`).
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
    n_beta: float
    localization: float
    lr: float
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
    lr = effort.lr if effort.lr is not None else problem.lr(effort.relative_lr)
    lr *= _LR_FACTOR.get(kernel, 1.0)
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
                n_beta=problem.n_beta,
                localization=problem.localization,
                lr=lr,
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
    # Losses near zero are differences of numbers near one: in float32 they depend on the order of operations.
    model = problem.model().double()
    data = tuple(tensor.double() for tensor in problem.data(problem.model()))
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
            paired=True,
            chains="vectorized",
            progress=False,
        )
    assert isinstance(tree, xr.DataTree)
    return tree


def _is_finished(tree: xr.DataTree, chain: int) -> bool:
    # A loss that is finite in double precision may be too large to be stored.
    finite = bool(np.isfinite(tree["trace/loss"].isel(chain=chain)).all())
    return finite and bool((tree["status/error"].isel(chain=chain) == "").all())


def _estimates(
    part: xr.DataTree, problem: Problem, kernel: str, lr: float, options: dict[str, float]
) -> dict[str, float]:
    if not part.sizes["chain"]:
        return dict.fromkeys(("estimate", "error", "step_corrected", "corrected", "ess"), _NAN)
    result = compute_llc(part)
    estimate = float(result["paired_llc_mean"])
    excess = corrections(part, lr=lr, localization=problem.localization, kernel=kernel, options=options)
    return {
        "estimate": estimate,
        "error": float(result["paired_llc_se"]),
        "step_corrected": estimate - excess["step_size"],
        "corrected": estimate - excess["step_size"] - excess["localization"],
        "ess": float(result["paired_ess"]),
    }
