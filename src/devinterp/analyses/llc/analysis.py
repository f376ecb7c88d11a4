r"""The local learning coefficient of a run and of its observables.

.. math:: \hat\lambda = n\beta \left( \mathbb{E}[L(w)] - L(w_0) \right)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.arrays import apply, is_lazy
from devinterp.analyses.common.blockwise import storable
from devinterp.analyses.common.convergence import summaries
from devinterp.analyses.common.mean_error import mean_error
from devinterp.analyses.common.mean_losses import (
    draw_means,
    share_minibatches,
    start_mean,
    trace_means,
    trace_start,
    why_start_is_unknown,
)
from devinterp.analyses.common.run_data import (
    STATUS_REQUIRED,
    Chains,
    burnin_steps,
    draws_after,
    drop_single_restriction,
    labels,
    setting,
    steps_after,
    use_chains,
)
from devinterp.analyses.llc.difference import DIFFERENCE_REQUIRES, difference
from devinterp.analyses.llc.errors import error_with_rows, error_without_rows
from devinterp.analyses.llc.row_losses import RowLosses, StepLosses
from devinterp.analyses.llc.schedule import data_shares, run_attrs
from devinterp.analyses.llc.tokens import TOKEN_REQUIRES, token_llc
from devinterp.analyses.llc.verdict import verdict_attrs
from devinterp.hookspecs import hookimpl
from devinterp.runs import only
from devinterp.schema import CHAIN, DRAW, OBSERVABLES, RESTRICTION, STEP, TRACE
from devinterp.types import Analysis

_REQUIRES = ("trace/loss|trace/mean_loss", "trace/init_loss", *STATUS_REQUIRED)
#: The dimension along which the results for several observables are joined.
OBSERVABLE = "observable"
_ESTIMATES = {name: f"llc_{name}" for name in ("mean", "std", "per_chain", "mcse", "se")}


def compute_llc(tree: xr.DataTree, *, burnin: int | None = None, chains: Chains = "all") -> xr.Dataset:
    r"""Compute the local learning coefficient [1]_ of a run, paired with its loss at w0 where stored, and of its observables.

    .. math:: \hat\lambda = n\beta \left( \mathbb{E}[L(w)] - L(w_0) \right)

    The expectation is over chains and the steps after burn-in. Under a weight restriction this is the refined LLC [2]_. The
    *paired* estimate subtracts from the loss of each step that of the same minibatches at :math:`w_0`, so that the noise of the
    data cancels; use it where the run stores what it needs. Lazy for a lazy tree.

    Parameters
    ----------
    tree : xarray.DataTree
        A sampling run.
    burnin : int, optional
        Number of initial steps to leave out of the expectation, and draws taken in them; from 0 to less than the number of
        steps. Default: the ``num_burnin_steps`` that the run was sampled with.
    chains : {"all", "finished"}, default: "all"
        Refuse a run with chains that did not finish, or use the chains that finished under all restrictions.

    Returns
    -------
    xarray.Dataset
        Over ``restriction`` where there are several:

        - ``paired_llc_mean``, ``paired_llc_per_chain(chain)``, ``paired_llc_se``, ``paired_rhat``, ``paired_ess``: from
          :math:`L_B(w) - L_B(w_0)`, if the run stores the losses of its rows at :math:`w_0`. :math:`L_B` is what a chain
          descends, the mean over a step's minibatches of each one's mean loss; with ``record="moments"`` the mean over all
          unmasked losses of a step, which differs only for padded text with gradient accumulation;
        - ``llc_mean``, ``llc_std`` (spread over chains, divisor: number of chains), ``llc_per_chain``: DevInterp 2's estimate,
          from minibatch losses and one value of :math:`L(w_0)`;
        - ``llc_se``: standard error of ``llc_mean``, with the noise of the data, the error of :math:`L(w_0)` and the bias of
          padded text; ``llc_mcse``: Monte Carlo standard error from the effective sample size alone; ``rhat`` and ``ess`` of
          the minibatch loss after burn-in;
        - ``loss_trace(chain, step)``: minibatch loss at every step, burn-in included; ``init_loss``: mean loss where the chains
          start; ``w0_loss``: :math:`L(w_0)`, where chains start elsewhere (``init_noise``) and it is stored;
        - ``observable_llc_mean(observable)`` and likewise ``observable_llc_std``, ``observable_llc_per_chain``,
          ``observable_llc_se``, ``observable_llc_mcse``, ``observable_rhat``, ``observable_ess``, for the observables whose
          loss at the initial weights is stored: they compare the same sequences at :math:`w` and at :math:`w_0`.

        Errors are for `devinterp.analyses.common.uncertainty.confidence_interval`; where none can be had they are NaN, and
        their attribute ``reason`` says why (docs/errors.md). So does that of estimates that are NaN because L(w0) of selected
        positions is not known.

        Attributes: ``n_beta``, ``burnin``, ``chains``, ``chains_used``, ``chains_left_out``, ``chains_share_minibatches``;
        ``noise_level`` and ``caution`` where that is not 1; ``verdict`` and ``findings``, what these numbers and the
        temperature say of the run (``tree.slt.diagnose()`` looks at more), and of a lazy tree that nothing was judged.

    Raises
    ------
    BrokenChainsError
        If a chain diverged or is unfinished and `chains` is ``"all"``.
    InvalidInputError
        If `burnin` leaves no step.
    MissingDataError
        If the tree lacks losses.

    References
    ----------
    .. [1] E. Lau, Z. Furman, G. Wang, D. Murfet, S. Wei. The local learning coefficient. arXiv:2308.12108.
    .. [2] G. Wang, J. Hoogland, S. van Wingerden, Z. Furman, D. Murfet. Differentiation and specialization of attention heads
       via the refined local learning coefficient. arXiv:2410.02984.
    """
    run = only(tree, name="llc", requires=_REQUIRES)
    n_beta = float(setting(run, "n_beta", needed_by="llc"))
    run, used = use_chains(run, chains, needed_by="llc")
    burnin = burnin_steps(run, burnin)

    variables = _run_llcs(run, burnin, n_beta)
    names = _paired_observables(run)
    if names:
        variables |= _observable_llcs(run, names, burnin, n_beta)
    for variable in (each for name, each in variables.items() if not name.endswith("_se")):
        variable.attrs = {}  # those of a loss, which lazy and loaded arrays do not keep alike
    if reason := why_start_is_unknown(run):
        for name in ("llc_mean", "llc_std", "llc_per_chain", "llc_se", "llc_mcse", "rhat", "ess", "init_loss"):
            variables[name].attrs.setdefault("reason", reason)
    coords: dict[str, Any] = labels(run.children[TRACE], RESTRICTION, CHAIN, STEP)
    if names:
        coords[OBSERVABLE] = (OBSERVABLE, np.array(names, dtype=object))
    attrs = {"n_beta": n_beta, "burnin": burnin, **used, **run_attrs(run), **verdict_attrs(variables, run, burnin)}
    return storable(drop_single_restriction(xr.Dataset(variables, coords, attrs)))


def _run_llcs(run: xr.DataTree, burnin: int, n_beta: float) -> dict[str, xr.Variable]:
    """Return the paired estimate, where it can be had, and DevInterp 2's."""
    rows, kept, start = RowLosses.of(run), steps_after(run, burnin), trace_start(run)
    paired: dict[str, xr.Variable] = {}
    if rows is None:
        loss_trace = trace_means(run)
        error = error_without_rows(run, loss_trace, burnin)
    else:
        steps = StepLosses.of(run, rows)
        loss_trace = steps.recorded
        share, difference = data_shares(run, burnin)
        rise = steps.rise.isel({STEP: kept})
        rise_error = mean_error(rise, shared=share_minibatches(run), draw=STEP, data_share=share)
        estimates = _llc(rise, n_beta, STEP, rise_error)
        paired = {
            f"paired_{_ESTIMATES.get(name, name)}": estimates[name]
            for name in ("mean", "per_chain", "se", "rhat", "ess")
        }
        error = error_with_rows(run, rows, steps, rise_error, burnin, difference, start)
    estimates = _llc(loss_trace.isel({STEP: kept}) - start, n_beta, STEP, error)
    # What is shown first is the more precise one.
    result = paired | {_ESTIMATES.get(name, name): variable for name, variable in estimates.items()}
    result |= {"loss_trace": loss_trace, "init_loss": start}
    if "w0_loss" in run.children[TRACE]:
        result |= {"init_loss": trace_start(run, init_noise=True), "w0_loss": start}
    return result


def _llc(rise: xr.Variable, n_beta: float, draw: str, error: xr.Variable) -> dict[str, xr.Variable]:
    """Return the estimates from the rise of the loss over L(w0) with dims `chain` and `draw`, and the error of its mean."""
    if is_lazy(rise):
        rise = rise.chunk({CHAIN: -1, draw: -1})
    out: list[list[str]] = [[], [], [CHAIN], [], [], []]
    mean, std, per_chain, mcse, rhat, ess = apply(_estimates, rise, core=[[CHAIN, draw]], out=out, n_beta=n_beta)
    scaled_error = n_beta * error
    scaled_error.attrs = error.attrs
    return {
        "mean": mean,
        "std": std,
        "per_chain": per_chain,
        "se": scaled_error,
        "mcse": mcse,
        "rhat": rhat,
        "ess": ess,
    }


def _estimates(rise: np.ndarray, *, n_beta: float) -> tuple[np.ndarray, ...]:
    """Return mean, spread and estimates of chains, Monte Carlo error, R-hat and effective draws."""
    per_chain = n_beta * rise.mean(-1)
    rhat, ess, mcse = np.moveaxis(summaries(rise), -1, 0)
    return per_chain.mean(-1), per_chain.std(-1), per_chain, n_beta * mcse, rhat, ess


def _paired_observables(run: xr.DataTree) -> list[str]:
    """Return the observables whose loss at the initial weights is stored."""
    # In alphabetical order: that in which a store lists its groups is not always the same.
    return sorted(name for name in schema.observable_names(run) if "init_loss" in run[f"{OBSERVABLES}/{name}"])


def _observable_llcs(run: xr.DataTree, names: list[str], burnin: int, n_beta: float) -> dict[str, xr.Variable]:
    draws, shared = draws_after(run, burnin), share_minibatches(run)
    estimates = []
    for name in names:
        group = f"{OBSERVABLES}/{name}"
        rise = (draw_means(run, group) - start_mean(run, group)).isel({DRAW: draws})
        estimates.append(_llc(rise, n_beta, DRAW, mean_error(rise, shared=shared)))
    joined = {key: xr.Variable.concat([each[key] for each in estimates], OBSERVABLE) for key in estimates[0]}  # type: ignore[no-untyped-call]
    return {f"{OBSERVABLE}_{_ESTIMATES.get(key, key)}": variable for key, variable in joined.items()}


@hookimpl
def devinterp_analyses() -> list[Analysis]:
    """Return the analyses of this package."""
    return [
        Analysis(name="llc", compute=compute_llc, requires=_REQUIRES),
        Analysis(name="difference", compute=difference, requires=DIFFERENCE_REQUIRES, of_study=True),
        Analysis(name="token_llc", compute=token_llc, requires=TOKEN_REQUIRES),
    ]
