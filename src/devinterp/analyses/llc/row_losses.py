r"""The loss of each step's minibatches, at the sampled and at the initial weights.

Their difference :math:`L_B(w) - L_B(w_0)` is free of the noise of which rows a minibatch holds, because both are means over the
same losses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.mean_losses import MOMENT, sums, trace_means
from devinterp.analyses.common.run_data import losses
from devinterp.errors import MissingDataError
from devinterp.runs import settings
from devinterp.schema import BATCH, POSITION, ROW, TRACE


@dataclass(frozen=True)
class RowLosses:
    """Losses at the initial weights of the rows that minibatches use.

    Parameters
    ----------
    ids : xarray.DataArray
        Which rows of the dataset, ``(row)``.
    totals : xarray.DataArray
        Sum and number of each row's unmasked losses, ``(row, moment)``, float64.
    """

    ids: xr.DataArray
    totals: xr.DataArray

    @classmethod
    def of(cls, run: xr.DataTree) -> RowLosses | None:
        """Return those that a run stores, None if it stores none."""
        trace = run[TRACE]
        if "row_loss" not in trace:
            return None
        loss = trace["row_loss"].variable
        if "row_count" in trace:
            count = trace["row_count"].variable.astype(np.float64)
            total = (loss * count).where(count > 0, 0)
            totals = xr.concat([xr.DataArray(total), xr.DataArray(count)], MOMENT).transpose(ROW, MOMENT)
        else:
            totals = sums(xr.DataArray(loss.data.reshape(loss.shape[0], -1), dims=(ROW, POSITION)))
        if totals.chunks is not None:
            totals = totals.chunk({ROW: -1, MOMENT: -1})
        return cls(xr.DataArray(trace["row_id"].variable), totals)

    def at(self, rows: xr.DataArray) -> xr.DataArray:
        """Return sum and number of the losses of rows ``(..., batch)``, with a further dim ``moment``; NaN of unknown rows."""
        if rows.chunks is not None:
            rows = rows.chunk({BATCH: -1})
        totals: xr.DataArray = xr.apply_ufunc(
            _look_up,
            rows,
            self.ids.chunk({ROW: -1}) if self.ids.chunks is not None else self.ids,
            self.totals,
            input_core_dims=[[BATCH], [ROW], [ROW, MOMENT]],
            output_core_dims=[[BATCH, MOMENT]],
            dask="parallelized",
            output_dtypes=[np.float64],
        )
        return totals

    def variance(self) -> xr.DataArray:
        r"""Return the variance over rows of what a row adds to the mean loss of a minibatch, times the rows in it.

        In a mean over minibatches with different numbers of unmasked losses a row with :math:`n_i` of them, of mean
        :math:`m_i`, counts as :math:`n_i (m_i - \mu) / \bar n`.
        """
        total, count = self.totals.isel({MOMENT: 0}), self.totals.isel({MOMENT: 1})
        residuals = (total - count * (total.sum() / count.sum())) / count.mean()
        return (residuals**2).sum(ROW) / max(residuals.sizes[ROW] - 1, 1)


@dataclass(frozen=True)
class StepLosses:
    """Mean loss of each step, at the sampled and at the initial weights.

    Parameters
    ----------
    rise : xarray.DataArray
        L_B(w) - L_B(w0), ``(restriction, chain, step)``: L_B is what a chain descends, the mean over a step's minibatches of
        each one's mean over its unmasked losses; where a run recorded only the mean over all unmasked losses of a step, that.
    pooled : xarray.DataArray
        The mean over all unmasked losses of a step at w, ``(restriction, chain, step)``.
    start, pooled_start : xarray.DataArray
        L_B(w0), and the mean over all unmasked losses of a step at w0, ``(chain, step)``.
    """

    rise: xr.DataArray
    pooled: xr.DataArray
    start: xr.DataArray
    pooled_start: xr.DataArray

    @classmethod
    def of(cls, run: xr.DataTree, rows: RowLosses) -> StepLosses:
        """Return the mean losses of a run's steps."""
        at_start = rows.at(run[TRACE]["sequence_id"].reset_coords(drop=True))
        total, count = at_start.isel({MOMENT: 0}), at_start.isel({MOMENT: 1})
        pooled_start = mean_of_minibatches(total, count, 1)
        if schema.MEAN_LOSS in run[TRACE]:
            pooled = trace_means(run)
            return cls(pooled - pooled_start, pooled, pooled_start, pooled_start)
        sampled = _totals(run, count)
        num_minibatches = minibatches_per_step(run)
        start = mean_of_minibatches(total, count, num_minibatches)
        rise = mean_of_minibatches(sampled, count, num_minibatches) - start
        return cls(rise, mean_of_minibatches(sampled, count, 1), start, pooled_start)


def minibatches_per_step(run: xr.DataTree) -> int:
    """Return how many minibatches a step accumulates."""
    return int(settings(run).get("gradient_accumulation_steps") or 1)


def _totals(run: xr.DataTree, count: xr.DataArray) -> xr.DataArray:
    """Return the sum of the unmasked losses of each row of a minibatch, of which there must be as many as at w0."""
    loss = losses(run, TRACE)
    if "row_count" in run[TRACE]:  # the run recorded means of sequences
        return (loss.isel({POSITION: 0}) * count).where(count > 0, 0)
    sampled = sums(loss)
    return sampled.isel({MOMENT: 0}).where(sampled.isel({MOMENT: 1}) == count)


def mean_of_minibatches(total: xr.DataArray, count: xr.DataArray, num_minibatches: int) -> xr.DataArray:
    """Return the mean over a step's minibatches of each one's mean loss, from sums and numbers of losses of its rows."""
    total, count = (one.chunk({BATCH: -1}) if one.chunks is not None else one for one in (total, count))
    means: xr.DataArray = xr.apply_ufunc(
        _means,
        total,
        count,
        input_core_dims=[[BATCH], [BATCH]],
        kwargs={"num_minibatches": num_minibatches},
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    return means


def _means(total: np.ndarray, count: np.ndarray, *, num_minibatches: int) -> np.ndarray:
    total, count = (one.reshape(*one.shape[:-1], num_minibatches, -1).sum(-1) for one in (total, count))
    with np.errstate(invalid="ignore"):
        return np.asarray((total / count).mean(-1))


def _look_up(rows: np.ndarray, ids: np.ndarray, totals: np.ndarray) -> np.ndarray:
    order = np.argsort(ids)
    place = order[np.minimum(np.searchsorted(ids, rows, sorter=order), len(ids) - 1)]
    unknown = ids[place] != rows
    if unknown.any() and len(ids) < len(np.unique(rows)):
        raise MissingDataError(
            f"steps use {len(np.unique(rows[unknown]))} rows whose losses at the initial weights this tree lacks: select no "
            f"part of `{ROW}`."
        )
    return np.where(unknown[..., None], np.nan, totals[place])
