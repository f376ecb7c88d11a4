"""The loss along the chains, and its rise over that of the same minibatches at the initial weights."""

from __future__ import annotations

import xarray as xr

from devinterp.analyses.common.mean_losses import trace_means, trace_start
from devinterp.analyses.common.run_data import labels
from devinterp.analyses.llc.row_losses import RowLosses, StepLosses
from devinterp.runs import only
from devinterp.schema import CHAIN, RESTRICTION, STEP, TRACE

TRACE_REQUIRES = ("trace/loss|trace/mean_loss", "trace/init_loss")


def loss_traces(tree: xr.DataTree) -> xr.Dataset:
    """Compute the mean loss of each step of a run, whatever became of its chains.

    Learning coefficients are n_beta times means of these over chains and the steps after burn-in: `compute_llc`.

    Parameters
    ----------
    tree : xarray.DataTree
        A sampling run.

    Returns
    -------
    xarray.Dataset
        ``loss(restriction, chain, step)``, the mean over all unmasked losses of each step; ``w0_loss``, L(w0); and
        ``rise(restriction, chain, step)``, what a chain descends less the same for the same minibatches at w0, if the run
        stores the losses of its rows there. NaN after a chain diverged. Lazy for a lazy tree.
    """
    run = only(tree, name="loss_traces", requires=TRACE_REQUIRES)
    rows, coords = RowLosses.of(run), labels(run.children[TRACE], RESTRICTION, CHAIN, STEP)
    if rows is None:
        return xr.Dataset({"loss": trace_means(run), "w0_loss": trace_start(run)}, coords)
    steps = StepLosses.of(run, rows)
    return xr.Dataset({"loss": steps.recorded, "w0_loss": trace_start(run), "rise": steps.rise}, coords)
