"""Mean losses of each draw, over whatever positions are there."""

from __future__ import annotations

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.run_data import losses
from devinterp.schema import BATCH, CHAIN, DRAW, POSITION, SEQUENCE, TRACE

_MOMENT = "moment"


def sums(loss: xr.DataArray) -> xr.DataArray:
    """Return the sum over `position` of the losses that are there, and how many these are, along a last dim ``moment``.

    Lazy for lazy input. NaN marks a position past the end of its sequence.
    """
    if loss.chunks is not None:
        loss = loss.chunk({POSITION: -1})
    found: xr.DataArray = xr.apply_ufunc(
        _sums,
        loss,
        input_core_dims=[[POSITION]],
        output_core_dims=[[_MOMENT]],
        dask="parallelized",
        output_dtypes=[np.float64],
        dask_gufunc_kwargs={"output_sizes": {_MOMENT: 2}},
    )
    return found


def _sums(loss: np.ndarray) -> np.ndarray:
    result = np.empty((*loss.shape[:-1], 2))
    np.sum(loss, axis=-1, dtype=np.float64, out=result[..., 0])
    result[..., 1] = loss.shape[-1]
    # Most text has full length: only what has a gap pays for looking.
    gaps = np.isnan(result[..., 0])
    if gaps.any():
        there = ~np.isnan(loss[gaps])
        result[gaps, 0] = np.sum(loss[gaps], axis=-1, dtype=np.float64, where=there)
        result[gaps, 1] = there.sum(-1)
    return result


def trace_means(run: xr.DataTree) -> xr.DataArray:
    """Return the mean loss of each step's minibatches: as the run recorded it, or from the losses it recorded."""
    if schema.MEAN_LOSS in run[TRACE]:
        return losses(run, TRACE, schema.MEAN_LOSS).isel({POSITION: 0}).astype(np.float64)
    return minibatch_mean(losses(run, TRACE), BATCH)


def draw_means(run: xr.DataTree, group: str) -> xr.DataArray:
    """Return the mean loss of an observable at each draw: as the run recorded it, or from the losses it recorded."""
    if schema.MEAN_LOSS in run[group]:
        return losses(run, group, schema.MEAN_LOSS).isel({POSITION: 0}).astype(np.float64)
    return paired_mean(losses(run, group), SEQUENCE, (CHAIN, DRAW))


def trace_start(run: xr.DataTree) -> xr.DataArray:
    """Return L(w0), the mean loss where the chains start, over all losses that count and all chains."""
    if "init_loss_mean" in run[TRACE]:
        return losses(run, TRACE, "init_loss_mean").isel({POSITION: 0}).astype(np.float64).mean(CHAIN)
    return losses(run, TRACE, "init_loss").astype(np.float64).mean([CHAIN, POSITION])


def start_mean(run: xr.DataTree, group: str) -> xr.DataArray:
    """Return the mean loss of an observable at the starting weights, to be compared with `draw_means`."""
    start = losses(run, group, "init_loss")
    if "loss" in run[group] and POSITION not in run[f"{group}/loss"].dims:
        # The run recorded means of sequences: each counts as one, however long it is.
        return _ratio(sums(start)).mean(SEQUENCE)
    return minibatch_mean(start, SEQUENCE)


def minibatch_mean(loss: xr.DataArray, dim: str) -> xr.DataArray:
    """Return the mean over `dim` and `position`; how many losses are there may differ from one minibatch to the next."""
    total = sums(loss).sum(dim)
    return _ratio(total)


def paired_mean(loss: xr.DataArray, dim: str, draw_dims: tuple[str, ...]) -> xr.DataArray:
    """Return the mean over `dim` and `position` at each draw.

    Every draw sees the same positions, so one where fewer losses are there than in another has a loss that is not a number;
    it gives NaN, not the mean of the rest.
    """
    total = sums(loss).sum(dim)
    count = total.isel({_MOMENT: 1})
    return _ratio(total).where(count == count.max([d for d in draw_dims if d in count.dims]))


def _ratio(total: xr.DataArray) -> xr.DataArray:
    count = total.isel({_MOMENT: 1})
    return total.isel({_MOMENT: 0}) / count.where(count > 0)
