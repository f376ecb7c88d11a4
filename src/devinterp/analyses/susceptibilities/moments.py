"""Susceptibilities from moments: means over draws, of losses and of their products with the sampling task's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.blockwise import Array, Traces, blockwise, is_lazy, stored_traces
from devinterp.analyses.common.convergence import mcse
from devinterp.analyses.common.mean_losses import draw_means, start_mean, trace_start
from devinterp.analyses.common.run_data import losses
from devinterp.analyses.common.uncertainty import jackknife_error
from devinterp.errors import InvalidInputError, MissingDataError
from devinterp.schema import CHAIN, DRAW, OBSERVABLES, POSITION, RESTRICTION, SEQUENCE

Errors = Literal["none", "jackknife", "ess"]
#: Tokens that are in work at a time: their traces stay in the processor's cache.
_COLUMNS = 256
#: Susceptibilities ``(restriction, sequence, position)`` and their standard errors.
Estimate: TypeAlias = tuple[Array, Array | None]


@dataclass(frozen=True)
class TaskSeries:
    """The mean loss on the sampling task at every draw and its rise over the start, ``(restriction, chain, draw)``, float64."""

    name: str
    loss: Array
    rise: Array

    @classmethod
    def of(cls, run: xr.DataTree, task: str, initial_loss: str) -> TaskSeries:
        """Return the series of the sampling task of a run."""
        group = f"{OBSERVABLES}/{task}"
        loss = draw_means(run, group).transpose(RESTRICTION, CHAIN, DRAW)
        if initial_loss == "paired":
            if "init_loss" not in run[group]:
                raise MissingDataError(
                    f"initial_loss='paired' needs `{group}/init_loss`; this run has none: pass 'trace'."
                )
            start = start_mean(run, group)
        elif initial_loss == "trace":
            start = trace_start(run)
        else:
            raise InvalidInputError(f"`initial_loss` (={initial_loss!r}) must be 'trace' or 'paired'.")
        rise = (loss - start).transpose(RESTRICTION, CHAIN, DRAW)
        chunks = {RESTRICTION: 1, CHAIN: -1, DRAW: -1}
        loss, rise = (one.chunk(chunks) if one.chunks is not None else one for one in (loss, rise))
        return cls(task, loss.data, rise.data)


@dataclass(frozen=True)
class Moments:
    """All that a susceptibility needs to know of a run: means over the draws of each chain.

    Parameters
    ----------
    rise, task, rise_task : array
        Means of phi, of L and of their product, ``(restriction, chain)``.
    loss, rise_loss : array
        Means of the tokens' losses and of their products with phi, ``(restriction, chain, sequence, position)``.
    """

    rise: Array
    task: Array
    rise_task: Array
    loss: Array
    rise_loss: Array

    def without(self, chain: int) -> Moments:
        """Return the moments of the other chains."""
        kept = np.delete(np.arange(self.rise.shape[1]), chain)
        return Moments(*(getattr(self, name)[:, kept] for name in ("rise", "task", "rise_task", "loss", "rise_loss")))

    def susceptibility(self, reference: int | None) -> Array:
        """Return chi ``(restriction, sequence, position)``.

        `reference` is the index of the run of all weights, None for none.
        """
        loss = self.loss.mean(axis=1)
        rise, task, rise_task = (one.mean(axis=1)[:, None, None] for one in (self.rise, self.task, self.rise_task))
        gap = task - loss
        if reference is not None:
            gap = gap[reference : reference + 1]
        return rise_task - self.rise_loss.mean(axis=1) - rise * gap


def estimate(run: xr.DataTree, name: str, series: TaskSeries, reference: int | None, errors: Errors) -> Estimate:
    """Return the susceptibilities ``(restriction, sequence, position)`` of an observable's tokens, and their errors."""
    group = f"{OBSERVABLES}/{name}"
    tiles = stored_traces(losses(run, group)) if "loss" in run[group] else None
    loss, rise_loss = _recorded_moments(run, group, series) if tiles is None else _traced_moments(tiles, series)
    moments = Moments(
        rise=series.rise.mean(axis=2),
        task=series.loss.mean(axis=2),
        rise_task=(series.rise * series.loss).mean(axis=2),
        loss=loss,
        rise_loss=rise_loss,
    )
    chi = moments.susceptibility(reference)
    num_chains = loss.shape[1]
    if errors == "none":
        return chi, None
    if errors == "ess":
        if tiles is None:
            raise MissingDataError(
                "standard_errors='ess' needs the losses of every draw; this run recorded moments: pass 'jackknife'."
            )
        return chi, _ess_error(tiles, series, moments, reference)
    if num_chains < 2:
        return chi, chi * np.nan
    return chi, jackknife_error([moments.without(chain).susceptibility(reference) for chain in range(num_chains)])


def _recorded_moments(run: xr.DataTree, group: str, series: TaskSeries) -> tuple[Array, Array]:
    """Return the means that a run recorded, of the losses and of their products with phi, in float64."""
    order = (RESTRICTION, CHAIN, SEQUENCE, POSITION)
    loss = losses(run, group, schema.LOSS_MEAN).transpose(*order).astype(np.float64)
    comoment = losses(run, group, schema.LOSS_COMOMENT).isel({schema.TASK: _place(run, group, series.name)})
    level = series.rise.mean(axis=2)[:, :, None, None]
    return loss.data, comoment.transpose(*order).astype(np.float64).data + level * loss.data


def _place(run: xr.DataTree, group: str, task: str) -> int:
    return [str(name) for name in run[f"{group}/{schema.TASK}"].to_numpy()].index(task)


def _traced_moments(tiles: Array, series: TaskSeries) -> tuple[Array, Array]:
    """Return the means over draws, of the losses and of their products with phi."""
    rise = series.rise.rechunk(tiles.chunks[:3]) if is_lazy(tiles) else series.rise
    summed = blockwise(
        _moments, "rcmst", (tiles, "rcdst"), (rise, "rcd"), sizes={"m": 2}, dtype=np.float64, joined=False
    )
    return summed[:, :, 0], summed[:, :, 1]


def _moments(losses: Any, rise: Any) -> np.ndarray:
    """Return the means over draws of the losses and of their products with phi.

    ``(restriction, chain, 2, sequence, position)``, float64. Losses and phi in one array, or in lists of arrays along draws.
    """
    pieces, rises = (found if isinstance(found, list) else [found] for found in (losses, rise))
    num_restrictions, num_chains, _, *tokens = pieces[0].shape
    num_draws = sum(piece.shape[2] for piece in pieces)
    level = sum(piece.sum(2) for piece in rises) / num_draws
    found = np.zeros((num_restrictions, num_chains, 2, *tokens))
    for r in range(num_restrictions):
        for c in range(num_chains):
            target, first = found[r, c].reshape(2, -1), pieces[0][r, c, 0].reshape(-1)
            for piece, values in zip(pieces, rises, strict=True):
                flat, centred = piece[r, c].reshape(len(values[r, c]), -1), values[r, c] - level[r, c]
                weights = np.stack([np.ones_like(centred), centred]) / num_draws
                for start in range(0, flat.shape[1], _COLUMNS):
                    part = slice(start, start + _COLUMNS)
                    # In double precision, a few tokens at a time: a susceptibility is a small difference of these means.
                    target[:, part] += weights @ (flat[:, part] - first[part]).astype(np.float64)
            target[0] += first
            target[1] += level[r, c] * target[0]
    return found


def _ess_error(tiles: Array, series: TaskSeries, moments: Moments, reference: int | None) -> Array:
    """Return the Monte Carlo error of the linearised estimate, from the effective sample size of what it is the mean of."""
    gap = moments.task.mean(axis=1)[:, None, None] - moments.loss.mean(axis=1)
    rise = moments.rise.mean(axis=1)
    own = np.arange(tiles.shape[0]) == reference if reference is not None else np.ones(tiles.shape[0], bool)
    centre = gap if reference is None else gap[reference : reference + 1] + gap * 0
    # Where the reference is the same run, chi is a covariance, in which the mean of phi drops out; elsewhere the errors of two
    # runs add.
    level = rise * own
    arguments = (
        (tiles, "rcdst"),
        (series.rise, "rcd"),
        (series.loss, "rcd"),
        (_aligned(centre, tiles), "rst"),
        (level, "r"),
    )
    error = blockwise(_product_error, "rst", *arguments, dtype=np.float64, joined=False)
    if reference is None or own.all():
        return error
    whole = slice(reference, reference + 1)
    ones = (series.rise[whole] * 0 + 1, "rcd")
    base = (
        (tiles[whole], "rcdst"),
        ones,
        (series.loss[whole], "rcd"),
        (_aligned(centre, tiles)[whole], "rst"),
        (level[whole] * 0, "r"),
    )
    of_gap = blockwise(_product_error, "rst", *base, dtype=np.float64, joined=False)
    other = (rise * ~own)[:, None, None]
    return (error**2 + (other * of_gap) ** 2) ** 0.5


def _product_error(losses: Any, rise: Any, task: Any, centre: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Return the Monte Carlo error of the mean of (phi - level) (L - loss - centre), ``(restriction, sequence, position)``."""
    traces, error = Traces(losses), np.empty(centre.shape)
    rise, task = (found[0][0] if isinstance(found, list) else found for found in (rise, task))
    for r in range(traces.shape[0]):
        for s in range(traces.shape[3]):  # one sequence at a time: the series are float64
            gap = task[r, :, :, None] - traces.select(r, slice(s, s + 1))[:, :, 0] - centre[r, s]
            product = (rise[r] - level[r])[:, :, None] * gap
            error[r, s] = mcse(np.moveaxis(product, 2, 0))
    return error


def _aligned(array: Array, tiles: Array) -> Array:
    """Return a lazy array ``(restriction, sequence, position)`` in the same blocks as the tiles."""
    return array.rechunk((tiles.chunks[0], tiles.chunks[3], tiles.chunks[4])) if is_lazy(tiles) else array
