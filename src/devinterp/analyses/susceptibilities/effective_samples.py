"""Errors of susceptibilities from the effective sample size within chains."""

from __future__ import annotations

from typing import Any

import numpy as np

from devinterp.analyses.common.blockwise import Array, Traces, blockwise, is_lazy
from devinterp.analyses.common.convergence import mcse
from devinterp.analyses.susceptibilities.moments import Moments
from devinterp.analyses.susceptibilities.task import TaskSeries
from devinterp.errors import MissingDataError


def error_within_chains(moments: Moments, series: TaskSeries, reference: int | None) -> Array:
    """Return the Monte Carlo error ``(restriction, sequence, position)`` of the linearised estimate.

    Linearised, a susceptibility is a mean over draws of the restricted run plus a multiple of a mean over draws of the run of
    all weights; the errors of the two runs add.
    """
    traces = moments.traces
    if traces is None:
        raise MissingDataError(
            "standard_errors='ess' needs the losses of every draw; this run recorded moments: pass 'jackknife'."
        )
    rise, task = (moments.task[:, :, n].mean(axis=1) for n in (0, 1))
    gap = task[:, None, None] - moments.token[:, :, 0].mean(axis=1)
    is_reference = np.ones(len(rise), bool) if reference is None else np.arange(len(rise)) == reference
    centre = gap if reference is None else gap[reference : reference + 1] + gap * 0
    # Where both runs are the same one, chi is a covariance, in which the mean of phi drops out.
    error = _product_error(traces, series.rise, series.loss, centre, rise * is_reference)
    if reference is None or is_reference.all():
        return error
    only = slice(reference, reference + 1)
    gap_error = _product_error(traces[only], series.rise[only] * 0 + 1, series.loss[only], centre[only], rise[only] * 0)
    return (error**2 + ((rise * ~is_reference)[:, None, None] * gap_error) ** 2) ** 0.5


def _product_error(traces: Array, rise: Array, task: Array, centre: Array, level: Array) -> Array:
    """Return the Monte Carlo error of the mean over draws of (rise - level) (task - loss - centre)."""
    if is_lazy(traces):
        centre = centre.rechunk((traces.chunks[0], traces.chunks[3], traces.chunks[4]))
    arguments = ((traces, "rcdst"), (rise, "rcd"), (task, "rcd"), (centre, "rst"), (level, "r"))
    return blockwise(_block_error, "rst", *arguments, dtype=np.float64, joined=False)


def _block_error(losses: Any, rise: Any, task: Any, centre: np.ndarray, level: np.ndarray) -> np.ndarray:
    traces, error = Traces(losses), np.empty(centre.shape)
    rise, task = (series[0][0] if isinstance(series, list) else series for series in (rise, task))
    for r in range(traces.shape[0]):
        for s in range(traces.shape[3]):  # one sequence at a time, because the products are float64
            gap = task[r, :, :, None] - traces.select(r, slice(s, s + 1))[:, :, 0] - centre[r, s]
            product = (rise[r] - level[r])[:, :, None] * gap
            error[r, s] = mcse(np.moveaxis(product, 2, 0))
    return error
