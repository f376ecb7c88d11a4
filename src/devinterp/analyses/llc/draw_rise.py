r"""The rise of the loss over that at w0, at the step of each draw, and the noise that minibatches give it.

A draw's step computes the loss of its minibatch before it moves the weights, and there the virial is measured, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.mean_losses import MOMENT, share_minibatches, sums
from devinterp.analyses.common.run_data import labels, places_of_steps, unlabelled_losses
from devinterp.analyses.llc.row_losses import RowLosses, StepLosses, minibatches_per_step
from devinterp.schema import BATCH, CHAIN, DRAW, POSITION, RESTRICTION, STEP, TRACE


@dataclass(frozen=True)
class DrawRise:
    """The rise of the minibatch loss at some steps.

    Parameters
    ----------
    rise : xarray.DataArray
        L_B(w) - L_B(w0), ``(restriction, chain, draw)``.
    noise : xarray.DataArray
        An unbiased estimate of the variance that the choice of rows gives it, like `rise`; NaN where it is not known.
    replayed : float
        One over the number of different minibatches among these steps, less what that is if none is used twice.
    """

    rise: xr.DataArray
    noise: xr.DataArray
    replayed: float

    @classmethod
    def of(cls, run: xr.DataTree, steps: np.ndarray) -> DrawRise | None:
        """Return those of steps given by their numbers, along ``draw``; None if the run stores no losses of rows at w0."""
        rows = RowLosses.of(run)
        if rows is None:
            return None
        selected = run.isel({STEP: places_of_steps(run, steps)}, missing_dims="ignore")
        rise = StepLosses.of(selected, rows).rise
        noise = _noise(run, selected, rows)
        parts = [
            xr.DataArray(part, labels(selected[TRACE], RESTRICTION, CHAIN)).rename({STEP: DRAW})
            for part in (rise, rise + noise)
        ]
        return cls(parts[0], parts[1] - parts[0], _replayed(selected, share_minibatches(run)))


def _replayed(selected: xr.DataTree, shared: bool) -> float:
    rows = selected[TRACE]["sequence_id"].to_numpy()  # chain, step, batch
    steps = rows[:1] if shared else rows
    num = steps.shape[0] * steps.shape[1]
    return float(1 / len(np.unique(np.sort(steps.reshape(num, -1)), axis=0)) - 1 / num)


def _noise(run: xr.DataTree, selected: xr.DataTree, rows: RowLosses) -> xr.Variable:
    """Return the variance over choices of rows of the rise at each step, from the spread of the rows of its minibatch."""
    trace = selected[TRACE]
    size = trace.sizes[BATCH] // minibatches_per_step(run)
    population = run[TRACE]["row_id"].attrs.get("num_rows")
    if population is not None and size >= int(population):
        return xr.Variable((), 0.0)
    if schema.MEAN_LOSS in trace or size < 2:
        return xr.Variable((), np.nan)
    start = rows.at(trace["sequence_id"].variable)
    count = start.isel({MOMENT: 1})
    loss = unlabelled_losses(selected, TRACE)
    total = loss.isel({POSITION: 0}) * count if "row_count" in trace else sums(loss).isel({MOMENT: 0})
    rise = (total - start.isel({MOMENT: 0})).where(count > 0, 0)  # type: ignore[no-untyped-call]
    rise, count = (one.chunk({BATCH: -1}) if one.chunks is not None else one for one in (rise, count))
    drawn = 1.0 if population is None else 1 - size / int(population)
    noise: xr.Variable = xr.apply_ufunc(
        _variance_of_mean,
        rise,
        count,
        input_core_dims=[[BATCH], [BATCH]],
        kwargs={"num_minibatches": minibatches_per_step(run)},
        dask="parallelized",
        output_dtypes=[np.float64],
    )
    return drawn * noise


def _variance_of_mean(total: np.ndarray, count: np.ndarray, *, num_minibatches: int) -> np.ndarray:
    """Return the variance of the mean of minibatches' means, from sums and numbers of losses of their rows."""
    total, count = (one.reshape(*one.shape[:-1], num_minibatches, -1) for one in (total, count))
    size = total.shape[-1]
    ratio = total.sum(-1, keepdims=True) / count.sum(-1, keepdims=True)
    residuals = (total - count * ratio) / count.mean(-1, keepdims=True)
    return np.asarray(((residuals**2).sum(-1) / (size * (size - 1))).mean(-1) / num_minibatches)
