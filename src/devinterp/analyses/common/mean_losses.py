"""Mean losses of minibatches and of draws, over the losses that are not masked."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.run_data import losses
from devinterp.runs import settings
from devinterp.schema import BATCH, CHAIN, DRAW, POSITION, SEQUENCE, TRACE
from devinterp.selection import whole_losses

#: Dim of `sums`: the sum of unmasked losses and their number.
MOMENT = "moment"


def sums(loss: xr.DataArray) -> xr.DataArray:
    """Return the sum over `position` of the unmasked losses and their number, along a last dim ``moment``.

    Lazy for lazy input. NaN marks a masked position, for example past the end of its sequence.
    """
    if loss.chunks is not None:
        loss = loss.chunk({POSITION: -1})
    totals: xr.DataArray = xr.apply_ufunc(
        _sums,
        loss,
        input_core_dims=[[POSITION]],
        output_core_dims=[[MOMENT]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {MOMENT: 2}},
    )
    return totals


def _sums(loss: np.ndarray) -> np.ndarray:
    result = np.empty((*loss.shape[:-1], 2))
    np.sum(loss, axis=-1, dtype=np.float64, out=result[..., 0])
    result[..., 1] = loss.shape[-1]
    # Most text has full length: masks are looked for only where a sum is NaN.
    gaps = np.isnan(result[..., 0])
    if gaps.any():
        unmasked = ~np.isnan(loss[gaps])
        result[gaps, 0] = np.sum(loss[gaps], axis=-1, dtype=np.float64, where=unmasked)
        result[gaps, 1] = unmasked.sum(-1)
    return result


def trace_means(run: xr.DataTree) -> xr.DataArray:
    """Return the mean over all unmasked losses of each step, as recorded or from the losses that are."""
    if schema.MEAN_LOSS in run[TRACE]:
        return losses(run, TRACE, schema.MEAN_LOSS).isel({POSITION: 0}).astype(np.float64)
    return minibatch_mean(losses(run, TRACE), BATCH)


def draw_means(run: xr.DataTree, group: str) -> xr.DataArray:
    """Return the mean loss of an observable at each draw, as recorded or from the losses that are."""
    if schema.MEAN_LOSS in run[group]:
        return losses(run, group, schema.MEAN_LOSS).isel({POSITION: 0}).astype(np.float64)
    return paired_mean(losses(run, group), SEQUENCE, (CHAIN, DRAW))


def trace_start(run: xr.DataTree, *, init_noise: bool = False) -> xr.DataArray:
    """Return L(w0), the mean loss of the minibatches that were measured before the first step, over all chains.

    Parameters
    ----------
    run : xarray.DataTree
        A sampling run.
    init_noise : bool, default: False
        For a run with initial noise, return the loss at the noisy weights instead, as DevInterp 2 does. A run that records no
        other loss gives this one in any case.
    """
    prefix = "w0_loss" if "w0_loss" in run[TRACE] and not init_noise else "init_loss"
    is_whole = whole_losses(run[f"{TRACE}/init_loss"])
    if f"{prefix}_mean" in run[TRACE] and is_whole:
        return losses(run, TRACE, f"{prefix}_mean").isel({POSITION: 0}).astype(np.float64).mean(CHAIN)
    mean: xr.DataArray = losses(run, TRACE, prefix).astype(np.float64).mean([CHAIN, POSITION])
    if is_whole or "loss" not in run[TRACE]:
        return mean
    # Of selected positions only the mean of each is stored: it is that of all their losses where none are masked.
    is_padded = losses(run, TRACE).isnull().any()
    return mean.where(~is_padded)


def share_minibatches(run: xr.DataTree) -> bool:
    """Say whether all chains of a run see the same minibatches."""
    return bool(settings(run).get("match_sampling_input_ids_across_chains", True))


def trace_start_error(run: xr.DataTree) -> xr.DataArray:
    """Return the standard error of `trace_start`; NaN where the run does not record it."""
    name = "w0_loss_mean_se" if "w0_loss_mean_se" in run[TRACE] else "init_loss_mean_se"
    if name not in run[TRACE] or not whole_losses(run[f"{TRACE}/init_loss"]):
        return xr.DataArray(math.nan)
    errors = run[f"{TRACE}/{name}"].astype(np.float64)
    if share_minibatches(run):
        return errors.mean(CHAIN, skipna=False)  # all chains measured the same minibatches: their errors are one
    variance: xr.DataArray = (errors**2).sum(CHAIN, skipna=False)
    return variance**0.5 / errors.sizes[CHAIN]


def start_mean(run: xr.DataTree, group: str) -> xr.DataArray:
    """Return the mean loss of an observable at the initial weights, to be compared with `draw_means`."""
    start = losses(run, group, "init_loss")
    if "loss" in run[group] and POSITION not in run[f"{group}/loss"].dims:
        # The run recorded means of sequences: each counts as one, however long it is.
        return ratio(sums(start)).mean(SEQUENCE)
    return minibatch_mean(start, SEQUENCE)


def minibatch_mean(loss: xr.DataArray, dim: str) -> xr.DataArray:
    """Return the mean over `dim` and `position`; the number of unmasked losses may differ between minibatches."""
    return ratio(sums(loss).sum(dim))


def paired_mean(loss: xr.DataArray, dim: str, draw_dims: tuple[str, ...]) -> xr.DataArray:
    """Return the mean over `dim` and `position` at each draw.

    Every draw has the same mask, so one with fewer unmasked losses than another has a loss that is not a number; it gives NaN,
    not the mean of the rest.
    """
    total = sums(loss).sum(dim)
    count = total.isel({MOMENT: 1})
    return ratio(total).where(count == count.max([d for d in draw_dims if d in count.dims]))


def ratio(total: xr.DataArray) -> xr.DataArray:
    """Return the mean from a sum and a number of losses along ``moment``; NaN of no losses."""
    count = total.isel({MOMENT: 1})
    return total.isel({MOMENT: 0}) / count.where(count > 0)
