"""How much noise of the data a mean over steps keeps, from which rows each step used.

Rows are used once an epoch, and every epoch replays the first. A mean over whole epochs holds all rows equally and has no such
noise; a mean over fresh rows has that of so many rows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr

from devinterp.analyses.common.arrays import apply, is_lazy
from devinterp.analyses.common.mean_losses import share_minibatches
from devinterp.analyses.common.run_data import noise_attrs, steps_after
from devinterp.analyses.llc.row_losses import minibatches_per_step
from devinterp.runs import settings
from devinterp.schema import BATCH, CHAIN, STEP, TRACE
from devinterp.selection import minibatch_slots, slots_of, step_labels


def run_attrs(run: xr.DataTree) -> dict[str, Any]:
    """Return what a result says of how its run was sampled, where that changes what its numbers mean."""
    attrs: dict[str, Any] = {"chains_share_minibatches": share_minibatches(run), **noise_attrs(run)}
    if "noise_level" in attrs:
        level = attrs["noise_level"]
        attrs["caution"] = (
            f"sampled with noise_level={level:g}: a learning coefficient comes out about {level**2:.3g} times what it is at 1"
        )
    return attrs


def data_shares(run: xr.DataTree, burnin: int) -> tuple[xr.Variable | float, xr.Variable | float]:
    r"""Return which shares of the variance of minibatches and of rows remain in means over the steps after burn-in.

    With :math:`u_i` the weight of row i of N in such a mean of minibatches of B rows, and :math:`v_i` its weight in L(w0)
    where that is measured on the first minibatches of the same chains (else 0):

    Returns
    -------
    steps : xarray.Variable or float
        :math:`B (\sum_i u_i^2 - 1/N)`, times the variance of a step's mean loss: what is left in the mean over steps.
    difference : xarray.Variable or float
        :math:`\sum_i (u_i - v_i)^2`, times the variance of `RowLosses.variance`: what is left in that mean less L(w0).
    """
    trace = run.children[TRACE].variables
    if "sequence_id" not in trace:
        return 1 / len(range(run.children[TRACE].sizes[STEP])[steps_after(run, burnin)]), math.nan
    rows = trace["sequence_id"]
    population = trace["row_id"].attrs.get("num_rows") if "row_id" in trace else None
    population = None if population is None else int(population)  # a number of numpy where it came through netCDF
    if is_lazy(rows):
        rows = rows.chunk(-1)
    slots = slots_of(settings(run))
    shares: xr.Variable = apply(
        shares_of_rows,
        rows,
        core=[[CHAIN, STEP, BATCH]],
        out=[["share"]],
        sizes={"share": 2},
        burnin=steps_after(run, burnin).start,
        num_minibatches=minibatches_per_step(run),
        num_initial=settings(run).get("num_init_loss_batches") if holds_first_steps(run) else None,
        population=population,
        minibatch_size=None if slots is None else slots // minibatches_per_step(run),
        contiguous=bool((np.diff(step_labels(run)) == 1).all()),
    )
    return shares.isel(share=0), shares.isel(share=1)


def holds_first_steps(run: xr.DataTree) -> bool:
    """Say whether a run holds its steps from the first on, with all rows of their minibatches."""
    labels, slots = step_labels(run), slots_of(settings(run))
    return bool((labels == np.arange(len(labels))).all()) and slots in (None, minibatch_slots(run))


def shares_of_rows(
    rows: np.ndarray,
    *,
    burnin: int,
    num_minibatches: int,
    num_initial: int | None,
    population: int | None,
    minibatch_size: int | None = None,
    contiguous: bool = True,
) -> np.ndarray:
    """Return both shares from the rows ``(chain, step, batch)`` of each step.

    Where some slots of the minibatches or some steps were selected, the size of a minibatch and whether steps follow each other
    have to be given.
    """
    if (rows == rows[:1]).all():
        rows = rows[:1]  # chains share them: what holds of one holds of all
    num_chains, _, num_rows = rows.shape
    size = minibatch_size or num_rows // num_minibatches
    ids, index = np.unique(rows, return_inverse=True)
    index = index.reshape(rows.shape)
    minibatches = index.reshape(num_chains, -1, num_rows // num_minibatches)
    period = replay_period(minibatches[0]) if contiguous else None
    epoch = population // size * size if population else period * size if period else math.inf
    weights = _weights(index[:, burnin:], len(ids))
    steps = num_rows * max(float((weights**2).sum()) - 1 / epoch, 0.0)
    if num_initial is None:
        return np.array([steps, steps / num_rows])
    wanted, known = num_initial * num_minibatches, minibatches.shape[1]
    order = np.arange(wanted) % period if period else np.arange(min(wanted, known))
    initial = _weights(minibatches[:, order], len(ids)) * len(order) / wanted
    # Minibatches beyond those of the steps hold rows that no step used.
    beyond = (wanted - len(order)) / (wanted**2 * size * num_chains)
    return np.array([steps, float(((weights - initial) ** 2).sum()) + beyond])


def _weights(index: np.ndarray, num: int) -> np.ndarray:
    return np.bincount(index.ravel(), minlength=num) / index.size


def replay_period(minibatches: np.ndarray) -> int | None:
    """Return after how many minibatches ``(minibatch, row)`` of a chain the first one comes again, None if it does not."""
    again = np.flatnonzero((minibatches[1:] == minibatches[0]).all(axis=1))
    return int(again[0]) + 1 if len(again) else None
