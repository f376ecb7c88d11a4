r"""The local learning coefficient: of a run, of each observable, of each token.

.. math:: \hat\lambda = n\beta \left( \mathbb{E}[L(w)] - L(w_0) \right)
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.blockwise import storable
from devinterp.analyses.common.convergence import summary
from devinterp.analyses.common.mean_losses import draw_means, start_mean, trace_means, trace_start
from devinterp.analyses.common.run_data import (
    STATUS_REQUIRED,
    Chains,
    burnin_steps,
    choose_observable,
    draws_after,
    drop_single_restriction,
    losses,
    setting,
    use_chains,
)
from devinterp.errors import MissingDataError
from devinterp.hookspecs import hookimpl
from devinterp.runs import only, settings
from devinterp.schema import CHAIN, DRAW, OBSERVABLES, POSITION, STEP, TRACE
from devinterp.types import Analysis

_REQUIRES = ("trace/loss|trace/mean_loss", "trace/init_loss", *STATUS_REQUIRED)
_TOKEN_REQUIRES = ("observables/*/loss|observables/*/loss_mean", "observables/*/init_loss", *STATUS_REQUIRED)
#: The dimension along which the results for several observables are joined.
OBSERVABLE = "observable"


def compute_llc(tree: xr.DataTree, *, burnin: int | None = None, chains: Chains = "all") -> xr.Dataset:
    r"""Compute the local learning coefficient [1]_ of a run, and that of each of its observables.

    .. math:: \hat\lambda = n\beta \left( \mathbb{E}[L(w)] - L(w_0) \right)

    The expectation is over chains and the steps after burn-in. The paired LLC of an observable compares the same sequences
    at :math:`w` and at :math:`w_0`, so that the noise of the data cancels. Under a weight restriction this is the refined
    LLC [2]_. Lazy for a lazy tree.

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

        - ``llc_mean``, ``llc_std`` (spread over chains, divisor: number of chains), ``llc_per_chain(chain)``;
        - ``llc_mcse``: Monte Carlo standard error of ``llc_mean``; ``llc_se``: that and the error of L(w0) together, NaN
          where the latter is unknown; ``rhat`` and ``ess`` of the loss after burn-in;
        - ``loss_trace(chain, step)``: minibatch loss at every step, burn-in included; ``init_loss``: L(w0);
        - ``observable_llc_mean(observable)`` and likewise ``observable_llc_std``, ``observable_llc_per_chain``,
          ``observable_llc_mcse``, ``observable_rhat``, ``observable_ess``, for the observables whose loss at the starting
          weights is stored.

        Attributes: ``n_beta``, ``burnin``, ``chains``, ``chains_used``, ``chains_left_out``.

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

    loss_trace = trace_means(run)
    init_loss = trace_start(run)
    main = _llc(loss_trace.isel({STEP: slice(burnin, None)}), init_loss, n_beta, STEP)
    main["llc_se"] = np.hypot(main["llc_mcse"], n_beta * _init_loss_error(run))
    main["loss_trace"], main["init_loss"] = loss_trace, init_loss
    paired = _observable_llcs(run, burnin, n_beta)
    result = xr.merge([main, paired], join="exact", compat="no_conflicts", combine_attrs="drop")
    result.attrs = {"n_beta": n_beta, "burnin": burnin, **used}
    return storable(drop_single_restriction(result))


def token_llc(
    tree: xr.DataTree, observable: str | None = None, *, burnin: int | None = None, chains: Chains = "all"
) -> xr.Dataset:
    r"""Compute the learning coefficient of each token of an observable: how much its loss rises around the weights.

    .. math:: \hat\lambda_x = n\beta \left( \mathbb{E}[\ell_x(w)] - \ell_x(w_0) \right)

    The mean over tokens is the observable's paired LLC. Lazy for a lazy tree.

    Parameters
    ----------
    tree : xarray.DataTree
        A sampling run with observables.
    observable : str, optional
        Which observable; needed where there are several.
    burnin : int, optional
        Leave out draws taken in this many initial steps; default: the run's ``num_burnin_steps``.
    chains : {"all", "finished"}, default: "all"
        Refuse a run with chains that did not finish, or use the chains that finished under all restrictions.

    Returns
    -------
    xarray.Dataset
        ``llc(sequence, position)``, its ``llc_mcse``, ``rhat`` and ``ess``, over ``restriction`` too where there are several,
        and ``token_ids(sequence, token)`` where the run has them: position p predicts the token at index p. A run that recorded
        moments has no errors of single tokens.

    Raises
    ------
    BrokenChainsError
        If a chain diverged or is unfinished and `chains` is ``"all"``.
    InvalidInputError
        If there is no such observable, or `burnin` leaves no draw.
    """
    run = only(tree, name="token_llc", requires=_TOKEN_REQUIRES)
    n_beta = float(setting(run, "n_beta", needed_by="token_llc"))
    name = choose_observable(run, observable, needed_by="token_llc")
    group = f"{OBSERVABLES}/{name}"
    if "init_loss" not in run[group]:
        raise MissingDataError(
            f"`token_llc` needs `{group}/init_loss`, the loss at the starting weights; this run has none."
        )
    run, used = use_chains(run, chains, needed_by="token_llc")
    burnin = burnin_steps(run, burnin)

    start = losses(run, group, "init_loss")
    attrs = {"n_beta": n_beta, "burnin": burnin, "observable": name, **used}
    if "loss" in run[group]:
        loss = losses(run, group).isel({DRAW: draws_after(run, burnin)})
        if POSITION not in run[f"{group}/loss"].dims and start.sizes[POSITION] > 1:
            raise MissingDataError(
                "`token_llc` needs losses of tokens; this run recorded means of sequences (`record`)."
            )
        mean, summarised = loss.mean([CHAIN, DRAW], dtype=np.float64, skipna=False), summary(loss)
        errors = {"llc_mcse": n_beta * summarised["mcse"], "rhat": summarised["rhat"], "ess": summarised["ess"]}
    else:
        mean, errors = losses(run, group, schema.LOSS_MEAN).mean(CHAIN, dtype=np.float64, skipna=False), {}
    result = xr.Dataset({"llc": n_beta * (mean - start), **errors}, attrs=attrs)
    for extra in ("token_ids", "sequence_id"):
        if extra in run[group].dataset.variables:
            result[extra] = run[f"{group}/{extra}"].variable
    return storable(drop_single_restriction(result))


def _llc(series: xr.DataArray, init_loss: xr.DataArray, n_beta: float, draw: str) -> xr.Dataset:
    """Return the estimates from mean losses with dims `chain` and `draw`."""
    per_chain = n_beta * (series.mean(draw, skipna=False) - init_loss)
    found = summary(series, draw=draw)
    return xr.Dataset(
        {
            "llc_mean": per_chain.mean(CHAIN, skipna=False),
            "llc_std": per_chain.std(CHAIN, skipna=False),
            "llc_per_chain": per_chain,
            "llc_mcse": n_beta * found["mcse"],
            "rhat": found["rhat"],
            "ess": found["ess"],
        }
    )


def _observable_llcs(run: xr.DataTree, burnin: int, n_beta: float) -> xr.Dataset:
    # In alphabetical order: that in which a store lists its groups is not always the same.
    names = sorted(name for name in schema.observable_names(run) if "init_loss" in run[f"{OBSERVABLES}/{name}"])
    if not names:
        return xr.Dataset()
    draws = draws_after(run, burnin)
    found = []
    for name in names:
        group = f"{OBSERVABLES}/{name}"
        series = draw_means(run, group).isel({DRAW: draws})
        found.append(_llc(series, start_mean(run, group), n_beta, DRAW))
    joined = xr.concat(
        found,
        xr.Variable((OBSERVABLE,), np.array(names, dtype=object)),
        join="exact",
        coords="minimal",
        compat="override",
    )
    return joined.rename({name: f"{OBSERVABLE}_{name}" for name in joined.data_vars})


def _init_loss_error(run: xr.DataTree) -> xr.DataArray | float:
    """Return the standard error of L(w0), the mean over chains; NaN where the run does not record it."""
    if "init_loss_mean_se" not in run[TRACE]:
        return math.nan
    errors = run[f"{TRACE}/init_loss_mean_se"].astype(np.float64)
    if settings(run).get("match_sampling_input_ids_across_chains", True):
        return errors.mean(CHAIN, skipna=False)  # every chain saw the same minibatches: their errors are one
    variance: xr.DataArray = (errors**2).sum(CHAIN, skipna=False)
    return variance**0.5 / errors.sizes[CHAIN]


@hookimpl
def devinterp_analyses() -> list[Analysis]:
    """Return the analyses of this module."""
    return [
        Analysis(name="llc", compute=compute_llc, requires=_REQUIRES),
        Analysis(name="token_llc", compute=token_llc, requires=_TOKEN_REQUIRES),
    ]
