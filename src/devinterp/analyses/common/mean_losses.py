"""Mean losses of minibatches and of draws, over the losses that are not masked.

All without coordinates: on a small run their upkeep takes longer than the arithmetic.
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.arrays import apply, is_lazy
from devinterp.analyses.common.run_data import unlabelled_losses
from devinterp.runs import settings
from devinterp.schema import BATCH, CHAIN, DRAW, POSITION, SEQUENCE, TRACE
from devinterp.selection import whole_losses

#: Dim of `sums`: the sum of unmasked losses and their number.
MOMENT = "moment"
#: From so many numbers on a sum is long.
_MIN_LONG = 1024


def sums(loss: xr.Variable, dim: str | None = None) -> xr.Variable:
    """Return the sum over `position` of the unmasked losses and their number, along a last dim ``moment``.

    Lazy for lazy input. NaN marks a masked position, for example past the end of its sequence.

    Parameters
    ----------
    loss : xarray.Variable
        With dim `position`.
    dim : str, optional
        Another dim over which is summed, too.
    """
    if is_lazy(loss):
        totals = _over(loss.chunk({POSITION: -1}), POSITION)
        return totals if dim is None else totals.sum(dim, skipna=False)
    return _over(loss, *([] if dim is None else [dim]), POSITION)


def _over(loss: xr.Variable, *dims: str) -> xr.Variable:
    totals: xr.Variable = apply(_sums, loss, core=[dims], out=[[MOMENT]], sizes={MOMENT: 2}, num_axes=len(dims))
    return totals


def _sums(loss: np.ndarray, *, num_axes: int = 1) -> np.ndarray:
    """Return the sum over the last axes of what is not NaN, and the number of it."""
    flat = loss.reshape(*loss.shape[: loss.ndim - num_axes], -1)
    result = np.empty((*flat.shape[:-1], 2))
    _add_up(flat, result[..., 0])
    result[..., 1] = flat.shape[-1]
    # Most text has full length: masks are looked for only where a sum is NaN, and what is too large for eight to be added only
    # where one is infinite.
    gaps = ~np.isfinite(result[..., 0])
    if not gaps.any():
        return result
    if num_axes > 1:
        return np.asarray(_sums(loss, num_axes=1).sum(tuple(range(-num_axes, -1))))
    unmasked = ~np.isnan(flat[gaps])
    result[gaps, 0] = np.sum(flat[gaps], axis=-1, dtype=np.float64, where=unmasked)
    result[gaps, 1] = unmasked.sum(-1)
    return result


def _add_up(values: np.ndarray, out: np.ndarray) -> None:
    """Write the sums over the last axis, in float64 but for the first step of long ones: of float32 eight at a time are added.

    That rounds as storing them did, by less than 1e-7 of each eight and 1e-8 of a sum of a thousand, in a third of the time.
    """
    if values.dtype == np.float32 and values.shape[-1] >= _MIN_LONG and values.shape[-1] % 8 == 0:
        with np.errstate(over="ignore", invalid="ignore"):
            values = np.add.reduce(values.reshape(*values.shape[:-1], 8, -1), axis=-2)
    # Faster than `numpy.sum`, which converts to float64 first.
    np.einsum("...p->...", values, out=out, dtype=np.float64, casting="safe")


def trace_means(run: xr.DataTree) -> xr.Variable:
    """Return the mean over all unmasked losses of each step, as recorded or from the losses that are."""
    if schema.MEAN_LOSS in run.children[TRACE]:
        return _recorded_means(run, TRACE)
    return minibatch_mean(unlabelled_losses(run, TRACE), BATCH)


def draw_means(run: xr.DataTree, group: str) -> xr.Variable:
    """Return the mean loss of an observable at each draw, as recorded or from the losses that are."""
    if schema.MEAN_LOSS in run[group]:
        return _recorded_means(run, group)
    return paired_mean(unlabelled_losses(run, group), SEQUENCE, (CHAIN, DRAW))


def _recorded_means(run: xr.DataTree, group: str) -> xr.Variable:
    return run[group].variables[schema.MEAN_LOSS].astype(np.float64)


def trace_start(run: xr.DataTree, *, init_noise: bool = False) -> xr.Variable:
    """Return L(w0), the mean loss of the minibatches that were measured before the first step, over all chains.

    Parameters
    ----------
    run : xarray.DataTree
        A sampling run.
    init_noise : bool, default: False
        For a run with initial noise, return the loss at the noisy weights instead, as DevInterp 2 does. A run that records no
        other loss gives this one in any case.
    """
    trace = run.children[TRACE].variables
    prefix = "w0_loss" if "w0_loss" in trace and not init_noise else "init_loss"
    is_whole = whole_losses(trace["init_loss"])
    if f"{prefix}_mean" in trace and is_whole:
        return trace[f"{prefix}_mean"].astype(np.float64).mean(CHAIN)
    mean: xr.Variable = unlabelled_losses(run, TRACE, prefix).astype(np.float64).mean([CHAIN, POSITION])
    if is_whole or "loss" not in trace:
        return mean
    # Of selected positions only the mean of each is stored: it is that of all their losses where none are masked.
    is_padded = unlabelled_losses(run, TRACE).isnull().any()
    known: xr.Variable = mean.where(~is_padded)  # type: ignore[no-untyped-call]
    return known


def why_start_is_unknown(run: xr.DataTree) -> str:
    """Return why `trace_start` is NaN where text is padded, of a run of which positions were selected; else nothing."""
    trace = run.children[TRACE].variables
    if "loss" not in trace or whole_losses(trace["init_loss"]):
        return ""
    return (
        "NaN where text is padded: of each position the mean loss at w0 is stored, without the number of rows in which it is "
        "text, so that the mean over selected positions is not known; the paired coefficient (paired=True) needs none"
    )


def share_minibatches(run: xr.DataTree) -> bool:
    """Say whether all chains of a run see the same minibatches."""
    return bool(settings(run).get("match_sampling_input_ids_across_chains", True))


def trace_start_error(run: xr.DataTree) -> xr.Variable:
    """Return the standard error of `trace_start`; NaN where the run does not record it."""
    trace = run.children[TRACE].variables
    name = "w0_loss_mean_se" if "w0_loss_mean_se" in trace else "init_loss_mean_se"
    if name not in trace or not whole_losses(trace["init_loss"]):
        return xr.Variable((), math.nan)
    errors = trace[name].astype(np.float64)
    if share_minibatches(run):
        return errors.mean(CHAIN, skipna=False)  # all chains measured the same minibatches: their errors are one
    variance: xr.Variable = (errors**2).sum(CHAIN, skipna=False)
    return variance**0.5 / errors.sizes[CHAIN]


def start_mean(run: xr.DataTree, group: str) -> xr.Variable:
    """Return the mean loss of an observable at the initial weights, to be compared with `draw_means`."""
    start = unlabelled_losses(run, group, "init_loss")
    if "loss" in run[group] and POSITION not in run[group].variables["loss"].dims:
        # The run recorded means of sequences: each counts as one, however long it is.
        return ratio(sums(start)).mean(SEQUENCE)
    return minibatch_mean(start, SEQUENCE)


def minibatch_mean(loss: xr.Variable, dim: str) -> xr.Variable:
    """Return the mean over `dim` and `position`; the number of unmasked losses may differ between minibatches."""
    return ratio(sums(loss, dim))


def paired_mean(loss: xr.Variable, dim: str, draw_dims: tuple[str, ...]) -> xr.Variable:
    """Return the mean over `dim` and `position` at each draw.

    Every draw has the same mask, so one with fewer unmasked losses than another has a loss that is not a number; it gives NaN,
    not the mean of the rest.
    """
    total = sums(loss, dim)
    along = [each for each in draw_dims if each in total.dims]
    if is_lazy(total):
        total = total.chunk(dict.fromkeys([*along, MOMENT], -1))
    means: xr.Variable = apply(_paired_means, total, core=[[*along, MOMENT]], out=[along], num_axes=len(along))
    return means.transpose(*(each for each in total.dims if each != MOMENT))


def _paired_means(total: np.ndarray, *, num_axes: int) -> np.ndarray:
    count = total[..., 1]
    most = count.max(tuple(range(-num_axes, 0)), keepdims=True)
    return np.where(count == most, _ratio(total), np.nan)


def ratio(total: xr.Variable) -> xr.Variable:
    """Return the mean from a sum and a number of losses along ``moment``; NaN of no losses."""
    mean: xr.Variable = apply(_ratio, total, core=[[MOMENT]])
    return mean


def _ratio(total: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.asarray(total[..., 0] / np.where(total[..., 1] > 0, total[..., 1], np.nan))
