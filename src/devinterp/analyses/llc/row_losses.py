r"""The loss of each step's minibatches, at the sampled and at the initial weights.

Their difference :math:`L_B(w) - L_B(w_0)` is free of the noise of which rows a minibatch holds, because both are means over the
same losses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.arrays import apply, is_lazy
from devinterp.analyses.common.mean_losses import MOMENT, sums, trace_means
from devinterp.analyses.common.run_data import unlabelled_losses
from devinterp.errors import MissingDataError
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
        trace = run.children[TRACE].variables
        if "row_loss" not in trace:
            return None
        loss = trace["row_loss"]
        if "row_count" in trace:
            count = trace["row_count"].astype(np.float64)
            total = (loss * count).where(count > 0, 0)  # type: ignore[no-untyped-call]
            totals = xr.Variable.concat([total, count], MOMENT).transpose(ROW, MOMENT)  # type: ignore[no-untyped-call]
        else:
            totals = sums(xr.Variable((ROW, POSITION), loss.data.reshape(loss.shape[0], -1)))
        if is_lazy(totals):
            totals = totals.chunk({ROW: -1, MOMENT: -1})
        return cls(trace["row_id"], totals)

    def whole(self) -> tuple[xr.Variable, xr.Variable]:
        """Return `ids` and `totals`, each in one block if they are lazy."""
        return self.ids.chunk({ROW: -1}) if is_lazy(self.ids) else self.ids, self.totals

    def mean_at_start(self, rows: xr.Variable) -> xr.Variable:
        """Return the mean over all unmasked losses of rows ``(chain, step, batch)`` at w0; NaN of unknown rows."""
        means: xr.Variable = xr.apply_ufunc(
            _means_of_rows,
            rows.chunk({BATCH: -1}) if is_lazy(rows) else rows,
            *self.whole(),
            input_core_dims=[[BATCH], [ROW], [ROW, MOMENT]],
            dask="parallelized",
            output_dtypes=[np.float64],
        )
        return means

    def at(self, rows: xr.Variable) -> xr.Variable:
        """Return sum and number of the losses of rows ``(chain, step, batch)``, with a further dim ``moment``."""
        totals: xr.Variable = xr.apply_ufunc(
            _totals_of_rows,
            rows.chunk({BATCH: -1}) if is_lazy(rows) else rows,
            *self.whole(),
            input_core_dims=[[BATCH], [ROW], [ROW, MOMENT]],
            output_core_dims=[[BATCH, MOMENT]],
            dask="parallelized",
            output_dtypes=[np.float64],
        )
        return totals

    def variance(self) -> xr.Variable:
        r"""Return the variance over rows of what a row adds to the mean loss of a minibatch, times the rows in it.

        In a mean over minibatches with different numbers of unmasked losses a row with :math:`n_i` of them, of mean
        :math:`m_i`, counts as :math:`n_i (m_i - \mu) / \bar n`.
        """
        variance: xr.Variable = apply(_variance, self.totals, core=[[ROW, MOMENT]])
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
        trace = run.children[TRACE].variables
        if schema.MEAN_LOSS in trace:
            start = rows.mean_at_start(trace["sequence_id"])
            recorded = trace_means(run)
            return cls(recorded, recorded - start, recorded, start, start)
        loss = unlabelled_losses(run, TRACE)
        # Means of sequences have to be weighted by their lengths, which are stored with the rows.
        by_sequence = "row_count" in trace
        sampled = loss.isel({POSITION: 0}) if by_sequence else sums(loss)
        core = [BATCH] if by_sequence else [BATCH, MOMENT]
        means = apply(
            _of_steps,
            *(one.chunk({BATCH: -1}) if is_lazy(one) else one for one in (sampled, trace["sequence_id"])),
            *rows.whole(),
            core=[core, [BATCH], [ROW], [ROW, MOMENT]],
            out=[[]] * 5,
            num_minibatches=minibatches_per_step(run),
            by_sequence=by_sequence,
        )
        return cls(*means)


def minibatches_per_step(run: xr.DataTree) -> int:
    """Return how many minibatches a step accumulates."""
    return int(settings(run).get("gradient_accumulation_steps") or 1)


def mean_of_minibatches(total: xr.Variable, count: xr.Variable, num_minibatches: int) -> xr.Variable:
    """Return the mean over a step's minibatches of each one's mean loss, from sums and numbers of losses of its rows."""
    total, count = (one.chunk({BATCH: -1}) if is_lazy(one) else one for one in (total, count))
    means: xr.Variable = xr.apply_ufunc(
        _means,
        total,
        count,
        input_core_dims=[[BATCH], [BATCH]],
        kwargs={"num_minibatches": num_minibatches},
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    return means


def _of_steps(
    sampled: np.ndarray,
    rows: np.ndarray,
    ids: np.ndarray,
    row_totals: np.ndarray,
    *,
    num_minibatches: int,
    by_sequence: bool,
) -> tuple[np.ndarray, ...]:
    """Return what `StepLosses` holds, in its order."""
    total, count = np.moveaxis(_look_up(rows, ids, row_totals), -1, 0)
    if by_sequence:
        sampled_total = np.where(count > 0, sampled * count, 0)
    else:
        # At w there must be as many losses as at w0.
        sampled_total = np.where(sampled[..., 1] == count, sampled[..., 0], np.nan)
    pooled, pooled_start = (_means(one, count, num_minibatches=1) for one in (sampled_total, total))
    recorded = pooled if by_sequence else _means(*np.moveaxis(sampled, -1, 0), num_minibatches=1)
    rise, start = pooled - pooled_start, pooled_start
    if num_minibatches > 1:
        start = _means(total, count, num_minibatches=num_minibatches)
        rise = _means(sampled_total, count, num_minibatches=num_minibatches) - start
    return recorded, rise, pooled, *(np.broadcast_to(one, pooled.shape) for one in (start, pooled_start))


def _variance(totals: np.ndarray) -> np.ndarray:
    total, count = totals[..., 0], totals[..., 1]
    residuals = (total - count * (total.sum(-1) / count.sum(-1))[..., None]) / count.mean(-1)[..., None]
    return np.asarray((residuals**2).sum(-1) / max(residuals.shape[-1] - 1, 1))


def _totals_of_rows(rows: np.ndarray, ids: np.ndarray, totals: np.ndarray) -> np.ndarray:
    return np.broadcast_to(_look_up(rows, ids, totals), (*rows.shape, 2))


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
    if not unknown.any():
        return totals[place]
    if len(ids) < len(np.unique(rows)):
        raise MissingDataError(
            f"steps use {len(np.unique(rows[unknown]))} rows whose losses at the initial weights this tree lacks: select no "
            f"part of `{ROW}`."
        )
    return np.where(unknown[..., None], np.nan, totals[place])
