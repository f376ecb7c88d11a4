r"""How a learning coefficient depends on the settings it was sampled with, from the covariances of the same run."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.blockwise import storable
from devinterp.analyses.common.mean_losses import draw_means, share_minibatches, start_mean
from devinterp.analyses.common.ratios import ratio_of_means
from devinterp.analyses.common.run_data import (
    STATUS_REQUIRED,
    Chains,
    burnin_steps,
    draws_after,
    drop_single_restriction,
    labels,
    setting,
    use_chains,
)
from devinterp.analyses.llc.draw_rise import DrawRise
from devinterp.errors import MissingDataError
from devinterp.hookspecs import hookimpl
from devinterp.runs import only, settings
from devinterp.schema import CHAIN, DRAW, METRICS, OBSERVABLES, RESTRICTION
from devinterp.selection import step_labels
from devinterp.types import Analysis

SENSITIVITY_REQUIRES = (f"{METRICS}/{schema.VIRIAL_SQUARE}", *STATUS_REQUIRED)
#: The dimension along which the results for several observables are joined.
OBSERVABLE = "observable"


def sensitivity(tree: xr.DataTree, *, burnin: int | None = None, chains: Chains = "all") -> xr.Dataset:
    r"""Compute the logarithmic slopes of the learning coefficient in localization and in inverse temperature.

    .. math::

        s_\gamma &= \frac{d \log \hat\lambda}{d \log \gamma}
            = -\frac{\gamma}{2} \frac{\mathrm{Cov}(L, |w - w_0|^2)}{\mathrm{E}[L] - L(w_0)} \\
        s_\beta &= \frac{d \log \hat\lambda}{d \log n\beta} = 1 - n\beta\, \frac{\mathrm{Var}(L)}{\mathrm{E}[L] - L(w_0)}

    Both are 0 where :math:`\hat\lambda` is a learning coefficient. Near a minimum that is locally quadratic
    :math:`s_\beta = -s_\gamma`; where that is 1, :math:`\hat\lambda` measures localization and not the loss. For a loss that is
    homogeneous of degree 2k, :math:`-s_\gamma / s_\beta = k`. The variance that the choice of minibatches gives the loss is
    estimated from the spread of their rows and subtracted. Lazy for a lazy tree.

    Parameters
    ----------
    tree : xarray.DataTree
        A sampling run.
    burnin : int, optional
        Number of initial steps to leave out, from 0. Default: the ``num_burnin_steps`` that the run was sampled with.
    chains : {"all", "finished"}, default: "all"
        Refuse a run with chains that did not finish, or use those that did.

    Returns
    -------
    xarray.Dataset
        Over ``restriction`` where there are several:

        - ``s_gamma``, ``s_gamma_se``, ``s_beta``, ``s_beta_se``: of the paired coefficient, where the losses of rows at w0 are
          stored; ``s_beta`` is NaN where the noise of minibatches is not known (``record="moments"``, minibatches of one row);
        - ``observable_s_gamma(observable)``, ``observable_s_beta(observable)`` and their errors: of the coefficients of
          observables. The second needs the loss of the step after each draw, and leaves out a draw after the last step.

    Raises
    ------
    BrokenChainsError
        If a chain diverged or is unfinished and `chains` is ``"all"``.
    InvalidInputError
        If `burnin` leaves no draw.
    MissingDataError
        If the run records neither losses of rows at w0 nor observables, or its ``noise_level`` is 0.
    """
    run = only(tree, name="sensitivity", requires=SENSITIVITY_REQUIRES)
    run, used = use_chains(run, chains, needed_by="sensitivity")
    burnin = burnin_steps(run, burnin)
    draws = draws_after(run, burnin)
    level = float(settings(run).get("noise_level", 1.0))
    if level == 0:
        raise MissingDataError(
            "`sensitivity` needs draws of a posterior; with `noise_level` 0 this run descended the gradient."
        )
    scale = 1 / level**2
    gamma = float(settings(run).get("localization") or 0.0) * scale
    n_beta = float(setting(run, "n_beta", needed_by="sensitivity")) * scale
    result = xr.Dataset()
    at_draws = DrawRise.of(run, run["draw_step"].to_numpy()[draws])
    if at_draws is not None:
        square = _metric(run, schema.VIRIAL_SQUARE, draws)
        result = result.assign(_slopes(run, at_draws, square, gamma, n_beta))
    result = result.assign(_observable_slopes(run, draws, gamma, n_beta))
    if not result.data_vars:
        raise MissingDataError(
            "`sensitivity` needs `trace/row_loss` or `observables/*/init_loss`; this tree has none: sample with `paired=True`."
        )
    result.attrs = {"n_beta": n_beta / scale, "localization": gamma / scale, "burnin": burnin, **used}
    return storable(drop_single_restriction(result))


def _slopes(
    run: xr.DataTree, at_draws: DrawRise, square: xr.DataArray, gamma: float, n_beta: float
) -> dict[str, xr.DataArray]:
    rise, shared = at_draws.rise, share_minibatches(run)
    own = _product(rise, rise) - at_draws.noise
    s_gamma, gamma_error = ratio_of_means(_product(rise, square), rise, shared=shared)
    s_beta, sampling_error = ratio_of_means(own, rise, shared=shared)
    # Minibatches that are used again and again are a few of many; how far their variance is from the expected one does not
    # average out over draws.
    replayed = at_draws.noise.mean() * (2 * at_draws.replayed) ** 0.5 / rise.mean([CHAIN, DRAW])
    beta_error = ((sampling_error**2 + replayed**2) ** 0.5).assign_attrs(sampling_error.attrs)
    return {
        "s_gamma": -gamma / 2 * s_gamma,
        "s_gamma_se": _scaled(gamma_error, gamma / 2),
        "s_beta": 1 - n_beta * s_beta,
        "s_beta_se": _scaled(beta_error, n_beta),
    }


def _observable_slopes(run: xr.DataTree, draws: slice, gamma: float, n_beta: float) -> dict[str, Any]:
    names = sorted(name for name in schema.observable_names(run) if "init_loss" in run[f"{OBSERVABLES}/{name}"])
    if not names or schema.DRAW_SQUARE not in run[METRICS]:
        return {}
    square, shared = _metric(run, schema.DRAW_SQUARE, draws), share_minibatches(run)
    steps = run["draw_step"].to_numpy()[draws]
    num_paired = int((steps < step_labels(run)[-1]).sum())
    after = DrawRise.of(run, steps[:num_paired] + 1)
    each: dict[str, list[xr.DataArray]] = {}
    for name in names:
        group = f"{OBSERVABLES}/{name}"
        variable = (draw_means(run, group) - start_mean(run, group)).isel({DRAW: draws})
        rise = xr.DataArray(variable, labels(run[group], RESTRICTION, CHAIN))
        ratio, error = ratio_of_means(_product(rise, square), rise, shared=shared)
        each.setdefault("s_gamma", []).append(-gamma / 2 * ratio)
        each.setdefault("s_gamma_se", []).append(_scaled(error, gamma / 2))
        if after is not None:
            paired = rise.isel({DRAW: slice(num_paired)})
            ratio, error = ratio_of_means(_product(paired, after.rise), paired, shared=shared)
            each.setdefault("s_beta", []).append(1 - n_beta * ratio)
            each.setdefault("s_beta_se", []).append(_scaled(error, n_beta))
    label = xr.Variable((OBSERVABLE,), np.array(names, dtype=object))
    return {
        f"{OBSERVABLE}_{name}": xr.concat(parts, label, coords="minimal", compat="override", join="exact").assign_attrs(
            parts[0].attrs
        )
        for name, parts in each.items()
    }


def _metric(run: xr.DataTree, name: str, draws: slice) -> xr.DataArray:
    metric = run[f"{METRICS}/{name}"].isel({DRAW: draws}).astype(np.float64)
    return metric.drop_vars(DRAW, errors="ignore").drop_attrs()


def _product(a: xr.DataArray, b: xr.DataArray) -> xr.DataArray:
    """Return the series whose mean is the covariance of two over chains and draws."""
    over = [CHAIN, DRAW]
    return (a - a.mean(over, skipna=False)) * (b - b.mean(over, skipna=False))


def _scaled(error: xr.DataArray, factor: float) -> xr.DataArray:
    return (error * factor).assign_attrs(error.attrs)


@hookimpl
def devinterp_analyses() -> list[Analysis]:
    """Return the analysis of slopes."""
    return [Analysis(name="sensitivity", compute=sensitivity, requires=SENSITIVITY_REQUIRES)]
