"""Each sequence's mean over positions of its tokens' unit rows, computed without making those rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from devinterp.analyses.bif.traces import Centring, blocks, centred, scale_of
from devinterp.analyses.common.blockwise import Traces

#: Tokens, and numbers, of the losses that are processed at a time: they stay in the processor's cache.
_TOKENS, _NUMBERS = 2**13, 2**17
#: Where the square of the mean is more than this share of a trace's sum of squares about its first value, their difference has
#: lost too many digits.
_FAR = 0.9


def averaged_rows(losses: Any, *, centring: Centring) -> np.ndarray:
    """Return each sequence's mean over positions of its tokens' unit rows, float32 ``(restriction, sample, sequence)``.

    Scalar products of these rows are correlations averaged over all pairs of positions. Missing positions do not count; a
    constant trace makes the row of its sequence NaN.
    """
    traces = Traces(losses)
    if centring.detrend or centring.reduce == "mean":
        return _by_sequences(traces, centring)
    return _by_draws(traces, centring)


def _by_sequences(traces: Traces, centring: Centring) -> np.ndarray:
    """Centre all traces of a few sequences, then average them."""
    num_restrictions, num_chains, num_draws, num_sequences, num_positions = traces.shape
    rows = np.empty((num_restrictions, centring.num_samples(num_chains, num_draws), num_sequences), np.float32)
    for r, block, scratch in blocks(traces):
        values, squares = centred(traces.select(r, block), centring, scratch)
        absent = _absent(traces, r, block, squares)
        values[:, absent] = 0
        weights = _weights(squares, absent, num_positions)
        rows[r, :, block] = np.einsum("nst,st->ns", values.reshape(len(values), -1, num_positions), weights)
    return rows


def _by_draws(traces: Traces, centring: Centring) -> np.ndarray:
    """Read the draws in memory order twice: for the norms of the traces, then to average them.

    Averaging and centring are linear, so the few averages are centred instead of the many traces.
    """
    num_restrictions, num_chains, num_draws, num_sequences, num_positions = traces.shape
    rows = np.empty((num_restrictions, num_chains, num_draws, num_sequences), np.float32)
    step = max(1, _TOKENS // max(1, num_positions))
    for r in range(num_restrictions):
        for start in range(0, num_sequences, step):
            block = slice(start, min(start + step, num_sequences))
            squares = _squares(traces, r, block, centring)
            absent = _absent(traces, r, block, squares)
            weights, any_absent = _weights(squares, absent, num_positions), absent.any()
            averages = rows[r, :, :, block]
            for chain, draws, values in _shifted(traces, r, block, centring):
                if any_absent:
                    values[:, absent] = 0
                tokens = values.reshape(len(values), -1, num_positions)
                np.einsum("nst,st->ns", tokens, weights, out=averages[chain, draws])
            averages -= averages.mean(1 if centring.by_chain else (0, 1), keepdims=True)
    return rows.reshape(num_restrictions, -1, num_sequences)


def _squares(traces: Traces, r: int, block: slice, centring: Centring) -> np.ndarray:
    """Return the sums of squares of some sequences' traces about their means, ``(token,)``."""
    num_chains, num_draws = traces.shape[1:3]
    size = (block.stop - block.start) * traces.shape[4]
    sums, squares = np.zeros((num_chains, size), np.float32), np.zeros(size, np.float32)
    for chain, _, values in _shifted(traces, r, block, centring):
        sums[chain] += values.sum(0)
        squares += np.einsum("nk,nk->k", values, values)
    groups = sums if centring.by_chain else sums.sum(0, keepdims=True)
    num = num_draws if centring.by_chain else num_draws * num_chains
    between: np.ndarray = np.einsum("gk,gk->k", groups, groups) / num
    with np.errstate(invalid="ignore"):
        far = np.flatnonzero(between > _FAR * squares)
        squares -= between
    if len(far):
        losses = traces.select(r, block).reshape(num_chains, num_draws, -1)[:, :, None, far]
        squares[far] = centred(losses, centring, np.empty(losses.size, np.float32))[1]
    return squares


def _shifted(traces: Traces, r: int, block: slice, centring: Centring) -> Iterator[tuple[int, slice, np.ndarray]]:
    """Yield a chain, some of its draws, and their losses minus those of the first draw, ``(draw, token)``.

    The first of the chain, or of all chains. It is subtracted because losses are large and their fluctuations small. All
    arrays that are yielded share their memory.
    """
    num_sequences, num_positions = block.stop - block.start, traces.shape[4]
    step = max(1, _NUMBERS // max(1, num_sequences * num_positions))
    scratch = np.empty((step, num_sequences, num_positions), np.float32)
    first, chain = traces.grid[0][0][r, 0, 0, block], 0
    for row in traces.grid:
        for c in range(row[0].shape[1]):
            if centring.by_chain:
                first = row[0][r, c, 0, block]
            draw = 0
            for piece in row:
                for start in range(0, piece.shape[2], step):
                    losses = piece[r, c, start : start + step, block]
                    values = scratch[: len(losses)]
                    with np.errstate(invalid="ignore"):
                        np.subtract(losses, first, out=values, casting="same_kind")
                    yield chain, slice(draw, draw + len(losses)), values.reshape(len(losses), -1)
                    draw += len(losses)
            chain += 1


def _absent(traces: Traces, r: int, block: slice, squares: np.ndarray) -> np.ndarray:
    """Return which tokens' losses are missing in every draw, as in padding."""
    absent: np.ndarray = np.isnan(squares)
    if absent.any():
        num_chains, num_draws = traces.shape[1:3]
        losses = traces.select(r, block).reshape(num_chains, num_draws, -1)
        absent[absent] = np.isnan(losses[..., absent]).all(axis=(0, 1))
    return absent


def _weights(squares: np.ndarray, absent: np.ndarray, num_positions: int) -> np.ndarray:
    """Return the weights of centred traces in their sequence's average, ``(sequence, position)``."""
    scale = np.where(absent, np.float32(0), scale_of(squares, 1, covariance=False)).reshape(-1, num_positions)
    count = num_positions - absent.reshape(-1, num_positions).sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(scale / count, np.float32)
