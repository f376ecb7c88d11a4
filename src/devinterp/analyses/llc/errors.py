r"""The error of the learning coefficient from minibatch losses, :math:`n\beta (\mathrm{E}[L_B(w)] - L(w_0))`.

Beside the Monte Carlo error it has the noise of which rows the steps and L(w0) were measured on, and a bias where the two are
different means of padded text.
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from devinterp.analyses.common.convergence import Series
from devinterp.analyses.common.mean_error import half_width, mean_error
from devinterp.analyses.common.mean_losses import (
    MOMENT,
    ratio,
    share_minibatches,
    sums,
    trace_start,
    trace_start_error,
)
from devinterp.analyses.common.run_data import steps_after, unlabelled_losses
from devinterp.analyses.llc.row_losses import RowLosses, StepLosses, mean_of_minibatches, minibatches_per_step
from devinterp.analyses.llc.schedule import data_shares, holds_first_steps
from devinterp.runs import settings
from devinterp.schema import BATCH, CHAIN, POSITION, STEP, TRACE
from devinterp.selection import whole_losses

#: Up to this share of a loss two means of the same unpadded losses differ by rounding.
_ROUNDING = 1e-5


def error_with_rows(
    run: xr.DataTree,
    rows: RowLosses,
    steps: StepLosses,
    rise_error: xr.Variable,
    burnin: int,
    difference: xr.Variable | float,
    start: xr.Variable,
) -> xr.Variable:
    """Return the error of mean(L_B(w)) - L(w0), given that of mean(L_B(w) - L_B(w0)) and the losses at w0 of all rows.

    `difference` is the second of `data_shares`, `start` is L(w0).
    """
    noise = rows.variance() * difference
    num_initial, known = settings(run).get("num_init_loss_batches"), holds_first_steps(run)
    if num_initial is None or not known:
        noise = noise + trace_start_error(run) ** 2
    if num_initial is not None and known and num_initial <= steps.start.sizes[STEP]:
        # L(w0) of the same minibatches as the run's own, but as the mean that its steps have.
        bias = steps.pooled_start.isel({STEP: slice(num_initial)}).mean([CHAIN, STEP]) - start
    else:
        bias = (steps.pooled_start - steps.start).isel({STEP: steps_after(run, burnin)}).mean([CHAIN, STEP])
    return _joined(rise_error, noise + bias**2)


def error_without_rows(run: xr.DataTree, trace: xr.Variable, burnin: int) -> xr.Variable:
    """Return the error of mean(L_B(w)) - L(w0) where the losses at w0 of single rows are not stored.

    It is rather too large: that L(w0) and the first steps were measured on the same rows is not used.
    """
    share, _ = data_shares(run, burnin)
    kept = trace.isel({STEP: steps_after(run, burnin)})
    error = mean_error(kept, shared=share_minibatches(run), draw=STEP, data_share=share)
    bias, unknown = _ratio_bias(run, kept, burnin)
    result = _joined(error, trace_start_error(run) ** 2 + bias**2)
    if not whole_losses(run.children[TRACE].variables["init_loss"]):
        result.attrs.setdefault(
            "reason", "the error of L(w0) is recorded for all positions, of which some were selected"
        )
    elif _rows_of_start(run) == 1:
        result.attrs.setdefault("reason", "L(w0) was measured on a single row, which gives no error of it")
    elif "init_loss_mean_se" not in run.children[TRACE]:
        result.attrs.setdefault("reason", "the error of L(w0) is not recorded in this run")
    elif unknown:
        result.attrs.setdefault("reason", "NaN where text is padded: means were recorded, without numbers of losses")
    return result


def widened(error: Series) -> Series:
    """Return a standard error so large that 1.96 of it are the 95 % interval that Student's distribution gives."""
    factor = half_width(error.attrs["degrees_of_freedom"]) / half_width(math.inf)
    result = error * factor
    result.attrs = {name: value for name, value in error.attrs.items() if name == "reason"}
    return result


def _joined(error: xr.Variable, further_variance: xr.Variable) -> xr.Variable:
    monte_carlo = widened(error)
    joined: xr.Variable = (monte_carlo**2 + further_variance) ** 0.5
    joined.attrs = monte_carlo.attrs
    return joined


def _rows_of_start(run: xr.DataTree) -> float:
    """Return on how many rows L(w0) was measured; infinity where a run does not say."""
    num_batches, size = (settings(run).get(name) for name in ("num_init_loss_batches", "batch_size"))
    if num_batches is None or size is None:
        return math.inf
    return float(num_batches * size * minibatches_per_step(run))


def _ratio_bias(run: xr.DataTree, kept: xr.Variable, burnin: int) -> tuple[xr.Variable | float, bool]:
    """Return how far a mean over steps may be from the kind of mean that L(w0) is, and whether that may be unknown.

    L(w0) is the mean over minibatches of each one's mean; earlier versions measured one mean over all unmasked losses.
    """
    if settings(run).get("record", "token") == "token":
        totals = sums(unlabelled_losses(run, TRACE).isel({STEP: steps_after(run, burnin)}))
        one_mean = ratio(totals.sum([CHAIN, STEP, BATCH]))
        total, count = totals.isel({MOMENT: 0}), totals.isel({MOMENT: 1})
        of_minibatches = mean_of_minibatches(total, count, minibatches_per_step(run)).mean([CHAIN, STEP])
        of_steps = kept.mean([CHAIN, STEP])
        other, this = abs(of_steps - one_mean), abs(of_steps - of_minibatches)
        larger: xr.Variable = this.where(this > other, other)  # type: ignore[no-untyped-call]
        return larger, False
    start = trace_start(run)
    of_positions = unlabelled_losses(run, TRACE, "init_loss").astype(np.float64).mean([CHAIN, POSITION])
    is_padded = abs(start - of_positions) > _ROUNDING * abs(start)
    bias: xr.Variable = xr.where(is_padded, np.nan, 0 * start)  # type: ignore[no-untyped-call]
    return bias, True
