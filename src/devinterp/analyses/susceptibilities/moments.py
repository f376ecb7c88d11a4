"""Means over the draws of each chain, of losses and of their products with the rise of the sampling task's loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.blockwise import Array, blockwise, is_lazy, stored_traces
from devinterp.analyses.common.run_data import losses
from devinterp.analyses.susceptibilities.task import TaskSeries
from devinterp.schema import CHAIN, OBSERVABLES, POSITION, RESTRICTION, SEQUENCE

#: Draws and tokens that are processed at a time: in double precision they stay in the processor's cache.
_DRAWS, _COLUMNS = 64, 4096


@dataclass(frozen=True)
class Moments:
    r"""All that a susceptibility needs to know of a run: means over the draws of each chain, in float64.

    Parameters
    ----------
    task : array
        Means of :math:`\phi`, :math:`L` and :math:`\phi L`, ``(restriction, chain, 3)``.
    token : array
        Means of :math:`\ell_x` and :math:`\phi \ell_x`, ``(restriction, chain, 2, sequence, position)``.
    traces : array or None
        The losses ``(restriction, chain, draw, sequence, position)``; None for a run that recorded moments instead.
    """

    task: Array
    token: Array
    traces: Array | None

    @classmethod
    def of(cls, run: xr.DataTree, name: str, series: TaskSeries) -> Moments:
        """Return the moments of an observable's tokens."""
        group = f"{OBSERVABLES}/{name}"
        rise, loss = series.rise, series.loss
        task = np.stack([rise.mean(axis=2), loss.mean(axis=2), (rise * loss).mean(axis=2)], axis=2)
        if "loss" not in run[group]:
            return cls(task, _recorded(run, group, series), None)
        traces = stored_traces(losses(run, group))
        if is_lazy(traces):
            rise = rise.rechunk(traces.chunks[:3])
        token = blockwise(
            _means, "rcmst", (traces, "rcdst"), (rise, "rcd"), sizes={"m": 2}, dtype=np.float64, joined=False
        )
        return cls(task, token, traces)


def _recorded(run: xr.DataTree, group: str, series: TaskSeries) -> Array:
    """Return the means from what the run recorded: mean losses, and central moments with each observable's mean loss."""
    order = (RESTRICTION, CHAIN, SEQUENCE, POSITION)
    loss = losses(run, group, schema.LOSS_MEAN).transpose(*order).astype(np.float64).data
    tasks = [str(name) for name in run[f"{group}/{schema.TASK}"].to_numpy()]
    comoment = losses(run, group, schema.LOSS_COMOMENT).isel({schema.TASK: tasks.index(series.name)})
    rise = series.rise.mean(axis=2)[:, :, None, None]
    return np.stack([loss, comoment.transpose(*order).astype(np.float64).data + rise * loss], axis=2)


def _means(losses: Any, rise: Any) -> np.ndarray:
    """Return the means over draws of the losses and of their products with the rise.

    ``(restriction, chain, 2, sequence, position)``, float64. Losses and rise come in one array each, or in lists of arrays
    along draws.
    """
    pieces, rises = (arrays if isinstance(arrays, list) else [arrays] for arrays in (losses, rise))
    num_restrictions, num_chains, _, *tokens = pieces[0].shape
    num_draws = sum(piece.shape[2] for piece in pieces)
    mean_rise = sum(piece.sum(2) for piece in rises) / num_draws
    means = np.zeros((num_restrictions, num_chains, 2, *tokens))
    for r in range(num_restrictions):
        for c in range(num_chains):
            target = means[r, c].reshape(2, -1)
            for piece, values in zip(pieces, rises, strict=True):
                centred = values[r, c] - mean_rise[r, c]
                weights = np.stack([np.ones_like(centred), centred]) / num_draws
                _add_products(target, weights, piece[r, c].reshape(len(centred), -1))
            target[1] += mean_rise[r, c] * target[0]
    return means


def _add_products(target: np.ndarray, weights: np.ndarray, losses: np.ndarray) -> None:
    """Add to `target` ``(2, tokens)`` the products of `weights` ``(2, draws)`` with the losses ``(draws, tokens)``.

    In double precision: a susceptibility is a small difference of such means.
    """
    doubles = np.empty((min(_DRAWS, len(losses)), min(_COLUMNS, losses.shape[1])))
    for column in range(0, losses.shape[1], _COLUMNS):
        part = slice(column, column + _COLUMNS)
        for draw in range(0, len(losses), _DRAWS):
            block = losses[draw : draw + _DRAWS, part]
            copied = doubles[: block.shape[0], : block.shape[1]]
            np.copyto(copied, block)
            # Vector by vector: libraries multiply a matrix of two rows more slowly, and with several threads far more so.
            for each, weight in zip(target, weights[:, draw : draw + _DRAWS], strict=True):
                each[part] += weight @ copied
