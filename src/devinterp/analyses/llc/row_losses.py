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
from devinterp.analyses.common.run_data import unlabelled_losses
from devinterp.runs import settings
from devinterp.schema import BATCH, POSITION, ROW, TRACE


@dataclass(frozen=True)
class RowLosses:
    """Losses at the initial weights of the rows that minibatches use.

    Parameters
    ----------
    ids : xarray.Variable
        Which rows of the dataset, ``(row)``.
    totals : xarray.Variable
        Sum and number of each row's unmasked losses, ``(row, moment)``, float64.
    """

    ids: xr.Variable
    totals: xr.Variable

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
            totals = xr.Variable.concat([total, count], MOMENT).transpose(ROW, MOMENT)  # type: ignore[no-untyped-call]
        else:
            totals = sums(xr.Variable((ROW, POSITION), loss.data.reshape(loss.shape[0], -1)))
        if totals.chunks is not None:
            totals = totals.chunk({ROW: -1, MOMENT: -1})
        return cls(trace["row_id"].variable, totals)

    def whole(self) -> tuple[xr.Variable, xr.Variable]:
        """Return `ids` and `totals`, each in one block if they are lazy."""
        return self.ids.chunk({ROW: -1}) if self.ids.chunks is not None else self.ids, self.totals

    def mean_at_start(self, rows: xr.Variable) -> xr.Variable:
        """Return the mean over all unmasked losses of rows ``(chain, step, batch)`` at w0; NaN of unknown rows."""
        means: xr.Variable = xr.apply_ufunc(
            _means_of_rows,
            rows.chunk({BATCH: -1}) if rows.chunks is not None else rows,
            *self.whole(),
            input_core_dims=[[BATCH], [ROW], [ROW, MOMENT]],
            dask="parallelized",
            output_dtypes=[np.float64],
        )
        return means

    def variance(self) -> xr.Variable:
        r"""Return the variance over rows of what a row adds to the mean loss of a minibatch, times the rows in it.

        In a mean over minibatches with different numbers of unmasked losses a row with :math:`n_i` of them, of mean
        :math:`m_i`, counts as :math:`n_i (m_i - \mu) / \bar n`.
        """
        variance: xr.Variable = xr.apply_ufunc(
            _variance, self.totals, input_core_dims=[[ROW, MOMENT]], dask="parallelized", output_dtypes=[np.float64]
        )
        return variance


@dataclass(frozen=True)
class StepLosses:
    """Mean loss of each step, at the sampled and at the initial weights.

    Parameters
    ----------
    recorded : xarray.Variable
        The mean over the unmasked losses of each step that the run recorded, ``(restriction, chain, step)``.
    rise : xarray.Variable
        L_B(w) - L_B(w0), ``(restriction, chain, step)``: L_B is what a chain descends, the mean over a step's minibatches of
        each one's mean over its unmasked losses; where a run recorded only the mean over all unmasked losses of a step, that.
    pooled : xarray.Variable
        The same, NaN where L_B(w0) is not known of all rows.
    start, pooled_start : xarray.Variable
        L_B(w0), and the mean over all unmasked losses of a step at w0, ``(chain, step)``.
    """

    recorded: xr.Variable
    rise: xr.Variable
    pooled: xr.Variable
    start: xr.Variable
    pooled_start: xr.Variable

    @classmethod
    def of(cls, run: xr.DataTree, rows: RowLosses) -> StepLosses:
        """Return the mean losses of a run's steps."""
        trace = run[TRACE].variables
        if schema.MEAN_LOSS in trace:
            start = rows.mean_at_start(trace["sequence_id"])
            recorded = trace_means(run)
            return cls(recorded, recorded - start, recorded, start, start)
        loss = unlabelled_losses(run, TRACE)
        # Means of sequences have to be weighted by their lengths, which are stored with the rows.
        by_sequence = "row_count" in trace
        sampled = loss.isel({POSITION: 0}) if by_sequence else sums(loss)
        core = [BATCH] if by_sequence else [BATCH, MOMENT]
        columns: xr.Variable = xr.apply_ufunc(
            _of_steps,
            *(one.chunk({BATCH: -1}) if one.chunks is not None else one for one in (sampled, trace["sequence_id"])),
            *rows.whole(),
            input_core_dims=[core, [BATCH], [ROW], [ROW, MOMENT]],
            output_core_dims=[["quantity"]],
            kwargs={"num_minibatches": minibatches_per_step(run), "by_sequence": by_sequence},
            dask="parallelized",
            output_dtypes=[np.float64],
            dask_gufunc_kwargs={"output_sizes": {"quantity": 5}},
        )
        return cls(*(columns.isel(quantity=n) for n in range(5)))


def minibatches_per_step(run: xr.DataTree) -> int:
    """Return how many minibatches a step accumulates."""
    return int(settings(run).get("gradient_accumulation_steps") or 1)


def _of_steps(
    sampled: np.ndarray,
    rows: np.ndarray,
    ids: np.ndarray,
    row_totals: np.ndarray,
    *,
    num_minibatches: int,
    by_sequence: bool,
) -> np.ndarray:
    """Return what `StepLosses` holds, ``(..., quantity)``, in its order."""
    total, count = np.moveaxis(_look_up(rows, ids, row_totals), -1, 0)
    if by_sequence:
        sampled_total = np.where(count > 0, sampled * count, 0)
    else:
        # At w there must be as many losses as at w0.
        sampled_total = np.where(sampled[..., 1] == count, sampled[..., 0], np.nan)
    result = np.empty((*sampled_total.shape[:-1], 5))
    result[..., 2] = _means(sampled_total, count, num_minibatches=1)
    result[..., 0] = result[..., 2] if by_sequence else _means(*np.moveaxis(sampled, -1, 0), num_minibatches=1)
    result[..., 4] = _means(total, count, num_minibatches=1)
    if num_minibatches == 1:
        result[..., 3], result[..., 1] = result[..., 4], result[..., 2] - result[..., 4]
    else:
        result[..., 3] = _means(total, count, num_minibatches=num_minibatches)
        result[..., 1] = _means(sampled_total, count, num_minibatches=num_minibatches) - result[..., 3]
    return result


def _variance(totals: np.ndarray) -> np.ndarray:
    total, count = totals[..., 0], totals[..., 1]
    residuals = (total - count * (total.sum(-1) / count.sum(-1))[..., None]) / count.mean(-1)[..., None]
    return np.asarray((residuals**2).sum(-1) / max(residuals.shape[-1] - 1, 1))


def _means_of_rows(rows: np.ndarray, ids: np.ndarray, totals: np.ndarray) -> np.ndarray:
    means = _means(*np.moveaxis(_look_up(rows, ids, totals), -1, 0), num_minibatches=1)
    return np.broadcast_to(means, rows.shape[:-1])


def _means(total: np.ndarray, count: np.ndarray, *, num_minibatches: int) -> np.ndarray:
    """Return the mean over a step's minibatches of each one's mean loss, from sums and numbers of losses of its rows."""
    total, count = (one.reshape(*one.shape[:-1], num_minibatches, -1).sum(-1) for one in (total, count))
    with np.errstate(invalid="ignore"):
        return np.asarray((total / count).mean(-1))


def _look_up(rows: np.ndarray, ids: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Return sum and number of the losses of rows ``(chain, step, batch)``, along a further axis; NaN of unknown rows.

    Of one chain only, where all have the same rows, as they mostly do.
    """
    if (rows == rows[:1]).all():
        rows = rows[:1]
    order = np.argsort(ids)
    place = order[np.minimum(np.searchsorted(ids, rows, sorter=order), len(ids) - 1)]
    unknown = ids[place] != rows
    result = totals[place]
    if unknown.any():
        result[unknown] = np.nan
    return result
