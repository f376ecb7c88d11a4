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
from devinterp.analyses.common.mean_losses import ratio, share_minibatches, sums, trace_start, trace_start_error
from devinterp.analyses.common.run_data import unlabelled_losses
from devinterp.analyses.llc.row_losses import RowLosses, StepLosses
from devinterp.analyses.llc.schedule import data_shares
from devinterp.runs import settings
from devinterp.schema import BATCH, CHAIN, POSITION, STEP, TRACE

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
    num_initial = settings(run).get("num_init_loss_batches")
    if num_initial is None:
        noise = noise + trace_start_error(run) ** 2
    if num_initial is not None and num_initial <= steps.start.sizes[STEP]:
        # L(w0) of the same minibatches as the run's own, but as the mean that its steps have.
        bias = steps.pooled_start.isel({STEP: slice(num_initial)}).mean([CHAIN, STEP]) - start
    else:
        bias = (steps.pooled_start - steps.start).isel({STEP: slice(burnin, None)}).mean([CHAIN, STEP])
    return _joined(rise_error, noise + bias**2)


def error_without_rows(run: xr.DataTree, trace: xr.Variable, burnin: int) -> xr.Variable:
    """Return the error of mean(L_B(w)) - L(w0) where the losses at w0 of single rows are not stored.

    It is rather too large: that L(w0) and the first steps were measured on the same rows is not used.
    """
    share, _ = data_shares(run, burnin)
    kept = trace.isel({STEP: slice(burnin, None)})
    error = mean_error(kept, shared=share_minibatches(run), draw=STEP, data_share=share)
    bias, unknown = _ratio_bias(run, kept, burnin)
    result = _joined(error, trace_start_error(run) ** 2 + bias**2)
    if "init_loss_mean_se" not in run[TRACE]:
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


def _ratio_bias(run: xr.DataTree, kept: xr.Variable, burnin: int) -> tuple[xr.Variable | float, bool]:
    """Return how far a mean over steps may be from the kind of mean that L(w0) is, and whether that may be unknown.

    Earlier versions measured L(w0) as one mean over all unmasked losses. The mean over minibatches of each one's mean is no
    further from the mean over steps.
    """
    if settings(run).get("record", "token") == "token":
        totals = sums(unlabelled_losses(run, TRACE).isel({STEP: slice(burnin, None)}))
        return kept.mean([CHAIN, STEP]) - ratio(totals.sum([CHAIN, STEP, BATCH])), False
    start = trace_start(run)
    of_positions = unlabelled_losses(run, TRACE, "init_loss").astype(np.float64).mean([CHAIN, POSITION])
    is_padded = abs(start - of_positions) > _ROUNDING * abs(start)
    bias: xr.Variable = xr.where(is_padded, np.nan, 0 * start)  # type: ignore[no-untyped-call]
    return bias, True
