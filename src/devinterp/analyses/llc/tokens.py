r"""The learning coefficient of each token: how much its loss rises around the initial weights."""

from __future__ import annotations

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.blockwise import storable
from devinterp.analyses.common.convergence import summary
from devinterp.analyses.common.mean_error import mean_error
from devinterp.analyses.common.mean_losses import share_minibatches
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
from devinterp.analyses.llc.schedule import run_attrs
from devinterp.errors import MissingDataError
from devinterp.runs import only
from devinterp.schema import CHAIN, DRAW, OBSERVABLES, POSITION

#: Paths that a run must have.
TOKEN_REQUIRES = ("observables/*/loss|observables/*/loss_mean", "observables/*/init_loss", *STATUS_REQUIRED)


def token_llc(
    tree: xr.DataTree, observable: str | None = None, *, burnin: int | None = None, chains: Chains = "all"
) -> xr.Dataset:
    r"""Compute the learning coefficient of each token of an observable: how much its loss rises around the weights.

    .. math:: \hat\lambda_x = n\beta \left( \mathbb{E}[\ell_x(w)] - \ell_x(w_0) \right)

    The mean over tokens is the observable's LLC. Lazy for a lazy tree.

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
        ``llc(sequence, position)``, its standard error ``llc_se`` (for `confidence_interval`), ``llc_mcse`` (from the effective
        sample size alone), ``rhat`` and ``ess``, over ``restriction`` too where there are several, and ``token_ids(sequence,
        token)`` where the run has them: position p predicts the token at index p. A run that recorded moments has no errors
        of single tokens.

    Raises
    ------
    BrokenChainsError
        If a chain diverged or is unfinished and `chains` is ``"all"``.
    InvalidInputError
        If there is no such observable, or `burnin` leaves no draw.
    """
    run = only(tree, name="token_llc", requires=TOKEN_REQUIRES)
    n_beta = float(setting(run, "n_beta", needed_by="token_llc"))
    name = choose_observable(run, observable, argument="observable", needed_by="token_llc")
    group = f"{OBSERVABLES}/{name}"
    if "init_loss" not in run[group]:
        raise MissingDataError(
            f"`token_llc` needs `{group}/init_loss`, the loss at the initial weights; this run has none."
        )
    run, used = use_chains(run, chains, needed_by="token_llc")
    burnin = burnin_steps(run, burnin)

    start = losses(run, group, "init_loss")
    attrs = {"n_beta": n_beta, "burnin": burnin, "observable": name, **used, **run_attrs(run)}
    if "loss" in run[group]:
        loss = losses(run, group).isel({DRAW: draws_after(run, burnin)}).drop_attrs()
        if POSITION not in run[f"{group}/loss"].dims and start.sizes[POSITION] > 1:
            raise MissingDataError(
                "`token_llc` needs losses of tokens; this run recorded means of sequences (`record`)."
            )
        mean = loss.mean([CHAIN, DRAW], dtype=np.float64, skipna=False)
        errors = _errors(loss, n_beta, shared=share_minibatches(run))
    else:
        mean, errors = losses(run, group, schema.LOSS_MEAN).mean(CHAIN, dtype=np.float64, skipna=False), {}
    result = xr.Dataset({"llc": n_beta * (mean - start), **errors}, attrs=attrs)
    for extra in ("token_ids", "sequence_id"):
        if extra in run[group].dataset.variables:
            result[extra] = run[f"{group}/{extra}"].variable
    return storable(drop_single_restriction(result))


def _errors(loss: xr.DataArray, n_beta: float, *, shared: bool) -> dict[str, xr.DataArray]:
    summarised, error = summary(loss), mean_error(loss, shared=shared)
    return {
        "llc_se": (n_beta * error).assign_attrs(error.attrs),
        "llc_mcse": n_beta * summarised["mcse"],
        "rhat": summarised["rhat"],
        "ess": summarised["ess"],
    }
