"""A run as ArviZ takes it: a tree with the groups ``posterior``, ``sample_stats`` and so on, by chain and draw."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.mean_losses import draw_means, start_mean, trace_means, trace_start
from devinterp.analyses.common.run_data import (
    STATUS_REQUIRED,
    Chains,
    burnin_steps,
    draws_after,
    drop_single_restriction,
    labelled,
    places_of_steps,
    setting,
    steps_after,
    use_chains,
)
from devinterp.analyses.llc.draw_rise import DrawRise
from devinterp.hookspecs import hookimpl
from devinterp.runs import only, settings
from devinterp.schema import CHAIN, DRAW, METRICS, OBSERVABLES, STEP, TRACE
from devinterp.types import Analysis

ARVIZ_REQUIRES = ("trace/loss|trace/mean_loss", "trace/init_loss", *STATUS_REQUIRED)
#: The dimension along which the losses of several observables are joined.
OBSERVABLE = "observable"


def to_arviz(tree: xr.DataTree, *, burnin: int | None = None, chains: Chains = "all") -> xr.DataTree:
    r"""Arrange a run for ArviZ [1]_: what is known of each draw, by chain and draw. Lazy for a lazy tree.

    Parameters
    ----------
    tree : xarray.DataTree
        A sampling run.
    burnin : int, optional
        Number of initial steps to leave out of the posterior, from 0. Default: the ``num_burnin_steps`` that the run was
        sampled with.
    chains : {"all", "finished"}, default: "all"
        Refuse a run with chains that did not finish, or use those that did.

    Returns
    -------
    xarray.DataTree
        Everything also over ``restriction`` where there are several:

        - ``posterior``: at each draw the minibatch ``loss``, and ``llc``, :math:`n\beta` times its rise over that of the same
          rows at w0 where these are stored, else over L(w0); ``observable_loss`` and ``observable_llc``, over ``observable``;
        - ``warmup_posterior``: ``loss`` at each step of the burn-in, where there is one;
        - ``sample_stats``: ``diverging`` (never, of finished chains); ``lp``, the logarithm of the density, where the distance
          from w0 is recorded and there is no weight decay; metrics; and as a coordinate the step of each draw, ``draw_step``;
        - ``constant_data``: ``init_loss``, and the loss of each observable at w0 as ``observable_init_loss``.

        Attributes of the root: the settings that are numbers or words.

    Raises
    ------
    BrokenChainsError
        If a chain diverged or is unfinished and `chains` is ``"all"``.
    InvalidInputError
        If `burnin` leaves no draw.

    References
    ----------
    .. [1] R. Kumar, C. Carroll, A. Hartikainen, O. Martin. ArviZ: a unified library for exploratory analysis of Bayesian
       models in Python. Journal of Open Source Software 4 (2019) 1143. doi:10.21105/joss.01143.
    """
    run = only(tree, name="to_arviz", requires=ARVIZ_REQUIRES)
    run, _ = use_chains(run, chains, needed_by="to_arviz")
    burnin = burnin_steps(run, burnin)
    draws, n_beta = draws_after(run, burnin), float(setting(run, "n_beta", needed_by="to_arviz"))
    steps = run["draw_step"].to_numpy()[draws]
    places = places_of_steps(run, steps)
    loss = labelled(trace_means(run), run[TRACE])
    posterior = xr.Dataset({"loss": _at_draws(loss, places)})
    at_draws = DrawRise.of(run, steps)
    posterior["llc"] = n_beta * (posterior["loss"] - trace_start(run) if at_draws is None else at_draws.rise)
    constant = xr.Dataset({"init_loss": labelled(trace_start(run), run[TRACE])})
    observables, starts = _observables(run, draws)
    if observables is not None:
        posterior[f"{OBSERVABLE}_loss"] = observables
    if observables is not None and starts is not None:
        constant[f"{OBSERVABLE}_init_loss"] = starts
        posterior[f"{OBSERVABLE}_llc"] = n_beta * (observables - starts)
    groups = {"posterior": posterior, "sample_stats": _stats(run, draws, places, posterior), "constant_data": constant}
    num_early = steps_after(run, burnin).start
    if num_early:
        early = loss.isel({STEP: slice(num_early)}).rename({STEP: DRAW})
        groups["warmup_posterior"] = xr.Dataset({"loss": _numbered(early)})
    numbered = {
        f"/{name}": _by_chain_and_draw(drop_single_restriction(dataset.drop_attrs()))
        for name, dataset in groups.items()
    }
    attrs: dict[str, Any] = {k: v for k, v in settings(run).items() if isinstance(v, str | int | float | bool)}
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=attrs), **numbered})


def _at_draws(series: xr.DataArray, places: np.ndarray) -> xr.DataArray:
    return _numbered(series.isel({STEP: places}).rename({STEP: DRAW}))


def _numbered(series: xr.DataArray) -> xr.DataArray:
    """Return a series whose draws are numbered from 0."""
    return series.reset_coords(drop=True).assign_coords({DRAW: np.arange(series.sizes[DRAW])})


def _observables(run: xr.DataTree, draws: slice) -> tuple[xr.DataArray | None, xr.DataArray | None]:
    """Return the mean losses of observables at draws, and at w0 if all are stored."""
    names = sorted(schema.observable_names(run))
    if not names:
        return None, None
    label = xr.Variable((OBSERVABLE,), np.array(names, dtype=object))
    options: dict[str, Any] = {"coords": "minimal", "compat": "override", "join": "exact"}
    groups = [f"{OBSERVABLES}/{name}" for name in names]
    each = [labelled(draw_means(run, group), run[group]).isel({DRAW: draws}) for group in groups]
    losses = xr.concat([_numbered(one) for one in each], label, **options)
    if not all("init_loss" in run[group] for group in groups):
        return losses, None
    starts = [labelled(start_mean(run, group), run[group]) for group in groups]
    return losses, xr.concat(starts, label, **options)


def _stats(run: xr.DataTree, draws: slice, places: np.ndarray, posterior: xr.Dataset) -> xr.Dataset:
    loss, steps = posterior["loss"], run["draw_step"].to_numpy()[draws]
    stats = xr.Dataset({"diverging": xr.zeros_like(loss, dtype=bool)}, coords={"draw_step": (DRAW, steps)})
    if METRICS in run.children:
        for name, metric in run[METRICS].to_dataset().data_vars.items():
            if STEP in metric.dims:
                stats[str(name)] = _at_draws(metric, places)
            elif metric.dims[-1:] == (DRAW,):
                stats[str(name)] = _numbered(metric.isel({DRAW: draws}))
    config = settings(run)
    if schema.VIRIAL_SQUARE in stats and not config.get("weight_decay"):
        pull = float(config.get("localization") or 0.0) / 2 * stats[schema.VIRIAL_SQUARE].astype(np.float64)
        stats["lp"] = (-float(config["n_beta"]) * loss - pull) / float(config.get("noise_level", 1.0)) ** 2
    return stats


def _by_chain_and_draw(dataset: xr.Dataset) -> xr.Dataset:
    """Put chain and draw first, as ArviZ has them."""
    return dataset.transpose(CHAIN, DRAW, ..., missing_dims="ignore")


@hookimpl
def devinterp_analyses() -> list[Analysis]:
    """Return the conversion for ArviZ."""
    return [Analysis(name="to_arviz", compute=to_arviz, requires=ARVIZ_REQUIRES)]
