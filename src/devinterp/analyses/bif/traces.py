"""Loss traces as rows of unit length: a correlation is then a scalar product, and all correlations are one matrix product.

These functions work on numpy arrays, within one task of a lazy computation. They take losses ``(restriction, chain, draw,
sequence, position)`` of some sequences in all draws, in one array or in several (`Traces`), and return rows ``(restriction,
sample, sequence, position)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from devinterp.analyses.common.blockwise import Traces

#: Bytes of losses that are processed at a time: they stay in the processor's cache.
_CACHE_BYTES = 2**20


@dataclass(frozen=True)
class Centring:
    """What is subtracted from a trace before it is compared with another.

    Parameters
    ----------
    reduce : {"stack", "mean"}
        Draws of all chains side by side, or the mean trace over chains.
    centre : {"pooled", "chain"}
        Subtract the mean over all chains, or each chain's own.
    detrend : bool
        Subtract each chain's own mean and linear trend in time.
    """

    reduce: Literal["stack", "mean"] = "stack"
    centre: Literal["pooled", "chain"] = "pooled"
    detrend: bool = False

    @property
    def by_chain(self) -> bool:
        """Whether every chain is centred on its own."""
        return self.detrend or self.centre == "chain"

    def num_samples(self, num_chains: int, num_draws: int) -> int:
        """Return the length of a row."""
        return num_draws * (1 if self.reduce == "mean" else num_chains)

    def degrees_of_freedom(self, num_chains: int, num_draws: int) -> int:
        """Return the divisor of a covariance: the length of a row less the number of fitted means and slopes."""
        means = num_chains if self.by_chain and self.reduce == "stack" else 1
        return self.num_samples(num_chains, num_draws) - means * (2 if self.detrend else 1)


def token_rows(losses: Any, *, centring: Centring, covariance: bool, columns: np.ndarray, width: int) -> np.ndarray:
    """Return every token's row, float32 ``(restriction, sample, sequence, width)``.

    Their scalar products are covariances or correlations. A row is NaN where a correlation is undefined (constant traces),
    where losses are missing, and at positions not in `columns`.
    """
    traces = Traces(losses)
    num_restrictions, num_chains, num_draws, num_sequences, _ = traces.shape
    shape = (num_restrictions, centring.num_samples(num_chains, num_draws), num_sequences, width)
    whole = width == len(columns)
    rows = np.empty(shape, np.float32) if whole else np.full(shape, np.nan, np.float32)
    for r, block, scratch in blocks(traces):
        part = traces.select(r, block)
        values, squares = centred(part, centring, scratch)
        values *= scale_of(squares, centring.degrees_of_freedom(num_chains, num_draws), covariance)
        target = values.reshape(-1, part.shape[2], part.shape[3])
        if whole:
            rows[r, :, block] = target
        else:
            rows[r, :, block, columns] = np.moveaxis(target, 2, 0)
    return rows


def sequence_rows(losses: Any, *, centring: Centring, covariance: bool) -> np.ndarray:
    """Return the rows of sequences' mean losses, float32 ``(restriction, sample, sequence)``."""
    means = _position_means(Traces(losses))[..., None]
    one = np.zeros(1, np.int64)
    return token_rows(means, centring=centring, covariance=covariance, columns=one, width=1)[..., 0]


def sequence_trends(losses: Any, *, centring: Centring) -> np.ndarray:
    """Return the linear trends of sequences' mean losses, ``(restriction, chain, sequence)``.

    Scaled so that a product of two is their contribution to the covariance within chains.
    """
    means = _position_means(Traces(losses))
    num_chains, num_draws = means.shape[1:3]
    if centring.reduce == "mean":
        means = means.mean(1, keepdims=True)
    slopes = np.einsum("d,rcds->rcs", _time(means.shape[2]), means - means[:, :, :1])
    return np.asarray(slopes * centring.degrees_of_freedom(num_chains, num_draws) ** -0.5, np.float32)


def _position_means(traces: Traces) -> np.ndarray:
    """Return the mean over positions, without those that are missing in every draw."""
    means = traces.map(_mean)
    for r, s in np.argwhere(np.isnan(means).any(axis=(1, 2))):
        losses = traces.select(int(r), slice(s, s + 1))[:, :, 0]
        present = ~np.isnan(losses)
        count = present.sum(-1)
        # A draw with fewer losses than another has one that is not a number: it has no mean.
        means[r, :, :, s] = np.where(present, losses, 0).sum(-1) / np.where(
            (count == count.max()) & (count > 0), count, np.nan
        )
    return means


def _mean(losses: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis, which equal numbers give equal values wherever they lie in memory."""
    # `einsum` takes half the time of `mean`; of thousands of positions it is less accurate, by 1e-7 of the mean.
    precision = np.result_type(losses.dtype, np.float32)
    return np.asarray(np.einsum("...p->...", losses, dtype=precision) / precision.type(losses.shape[-1]))


def constant(losses: Any, *, centring: Centring, columns: np.ndarray, width: int, mean: bool) -> np.ndarray:
    """Return which traces do not vary, so that their correlations are undefined.

    Bool ``(restriction, sequence, width)``, or ``(restriction, sequence)`` for the mean losses of sequences.
    """
    # A trace that varies mostly does so in its first draws: the others are read only where these are equal.
    traces = Traces(losses)
    flags = _all_equal(traces.first_draws(), centring, mean)
    for r, s in np.argwhere(flags.any(axis=2)):
        flags[r, s] = _all_equal(traces.select(int(r), slice(s, s + 1))[None], centring, mean)[0, 0]
    if mean:
        return flags[..., 0]
    placed = np.zeros((*flags.shape[:2], width), bool)
    placed[..., columns] = flags
    return placed


def _all_equal(losses: np.ndarray, centring: Centring, mean: bool) -> np.ndarray:
    values = _position_means(Traces(losses))[..., None] if mean else losses
    first = values[:, :, :1] if centring.by_chain else values[:, :1, :1]
    return np.asarray((values == first).all(axis=(1, 2)))


def blocks(traces: Traces) -> Iterator[tuple[int, slice, np.ndarray]]:
    """Yield a restriction, a few of its sequences, and scratch memory for their losses that is reused for each."""
    num_restrictions, num_chains, num_draws, num_sequences, num_positions = traces.shape
    size = num_chains * num_draws * num_positions
    per_block = min(max(1, _CACHE_BYTES // max(1, 4 * size)), max(1, num_sequences))
    scratch = np.empty(per_block * size, np.float32)
    for r in range(num_restrictions):
        for start in range(0, num_sequences, per_block):
            stop = min(start + per_block, num_sequences)
            yield r, slice(start, stop), scratch[: (stop - start) * size]


def scale_of(squares: np.ndarray, degrees_of_freedom: int, covariance: bool) -> np.ndarray:
    """Return the factors of centred traces, given the sums of their squares: NaN for a correlation of one that is constant."""
    if covariance:
        return np.full(len(squares), degrees_of_freedom**-0.5 if degrees_of_freedom > 0 else np.nan, np.float32)
    with np.errstate(invalid="ignore"):
        return np.where(squares > 0, 1 / np.sqrt(np.where(squares > 0, squares, 1)), np.nan).astype(np.float32)


def centred(losses: np.ndarray, centring: Centring, scratch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centred traces ``(sample, token)`` and the sums of their squares.

    From losses ``(chain, draw, sequence, position)``. Float32, in the memory of `scratch` unless chains are averaged. Constant
    traces become exactly zero.
    """
    traces = losses.reshape(*losses.shape[:2], -1)
    with np.errstate(invalid="ignore"):
        # A trace's first value is subtracted first, because losses are large and their fluctuations small.
        first = traces[:, :1] if centring.by_chain else traces[:1, :1]
        # In C order, so that every reshape below is a view of the same numbers.
        if centring.reduce == "mean":
            values = np.ascontiguousarray((traces - first).mean(0, keepdims=True), np.float32)
        else:
            values = np.subtract(traces, first, out=scratch.reshape(traces.shape), casting="same_kind")
        groups = values if centring.by_chain else values.reshape(1, -1, values.shape[2])
        num = groups.shape[1]
        for group in groups:
            group -= np.full(num, 1 / num, np.float32) @ group
            if centring.detrend:
                time = _time(num)
                group -= np.outer(time, time @ group)
        flat = values.reshape(-1, values.shape[2])
        squares = np.einsum("nk,nk->k", flat, flat)
        if centring.detrend:
            # An exactly linear trace leaves nothing but rounding.
            rounding = np.finfo(np.float32).eps * np.abs(traces).max(axis=(0, 1))
            straight = squares <= flat.shape[0] * rounding**2
            flat[:, straight], squares[straight] = 0, 0
    return flat, squares


def _time(num_draws: int) -> np.ndarray:
    """Return time as a unit vector with mean zero."""
    time = np.arange(num_draws) - (num_draws - 1) / 2
    norm = np.linalg.norm(time)
    return (time / norm if norm > 0 else time).astype(np.float32)
