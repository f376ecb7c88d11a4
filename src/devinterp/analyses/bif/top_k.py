"""The strongest entries of a matrix product, without ever holding the product."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np

from devinterp.analyses.common.blockwise import Array, blockwise, innermost, is_lazy

#: A value and the number of the column it stands in.
ENTRY = np.dtype([("value", np.float32), ("column", np.int64)])
SIGNS = ("positive", "negative")
#: Rows of the product that are in work at a time, in numbers: they stay in the processor's cache.
_BLOCK = 2**20
#: Candidate rows that a task makes at a time.
_ROW_BYTES = 2**25
_GROUP = 32
_FAN_IN = 8


@dataclass(frozen=True)
class Candidates:
    """Some candidates and how a task makes rows of them.

    Parameters
    ----------
    data : array
        What the rows are made of; its axes are `letters`, of which ``u`` is the sequence.
    letters : str
        One letter for each axis.
    rows : callable
        ``rows(block, sequences)`` returns rows ``(restriction, sample, sequence, position)`` of a slice of a block's sequences;
        NaN rows are never among the strongest.
    tokens : numpy.ndarray
        Number of each row's token, ``(sequence, position)``; negative where there is none.
    first : int
        Place of the first sequence among all candidates.
    """

    data: Array
    letters: str
    rows: Callable[[Any, slice], np.ndarray]
    tokens: np.ndarray
    first: int


def strongest_products(
    queries: Array, query_tokens: np.ndarray, candidates: list[Candidates], *, k: int, exclude_self: bool
) -> Array:
    """Return for each query row the `k` largest and the `k` smallest scalar products with candidate rows.

    Parameters
    ----------
    queries : array
        Rows ``(restriction, sample, sequence, position)``.
    query_tokens : numpy.ndarray
        Number of each query's token, ``(sequence, position)``, as in `Candidates`.
    candidates : list of Candidates
        What to compare with.
    k : int
        At least 1.
    exclude_self : bool
        Whether the product of a row with itself does not count.

    Returns
    -------
    array
        Of dtype `ENTRY` and shape ``(restriction, sequence, position, 2, k)``, strongest first; a column is a candidate's
        sequence times the number of positions plus its position. NaN and -1 where there are fewer than `k` of the sign.
    """
    if not is_lazy(queries):
        queries = da.from_array(queries, chunks=(1, -1, -1, -1))
    found = da.concatenate([_of(part, queries, query_tokens, k, exclude_self) for part in candidates], axis=4)
    # A tree: each task merges the lists of a few, so that no task and no worker holds them all.
    while found.numblocks[-1] > 1:
        found = found.rechunk({4: _FAN_IN * k})
        found = blockwise(_merge, "rstxu", (found, "rstxu"), sizes={"u": k}, dtype=ENTRY, k=k)
    return found


def _of(part: Candidates, queries: Array, query_tokens: np.ndarray, k: int, exclude_self: bool) -> Array:
    data, axis = part.data, part.letters.index("u")
    if not is_lazy(data):
        chunks = [1, *[-1] * (data.ndim - 1)]
        chunks[axis] = max(1, 4096 // max(1, data.shape[-1]))
        data = da.from_array(data, chunks=tuple(chunks))
    sequences = data.chunks[axis]
    return blockwise(
        _tile,
        "rstxu",
        (queries, "rnst"),
        (data, part.letters),
        (da.from_array(query_tokens, chunks=(queries.chunks[2], -1)), "st"),
        (da.from_array(part.tokens, chunks=(sequences, -1)), "uw"),
        (da.arange(part.first, part.first + sum(sequences), chunks=(sequences,)), "u"),
        sizes={"x": 2, "u": k},
        dtype=ENTRY,
        joined=False,
        rows=part.rows,
        k=k,
        exclude_self=exclude_self,
    )


def _tile(
    queries: Any,
    candidates: Any,
    query_tokens: np.ndarray,
    candidate_tokens: Any,
    candidate_sequences: np.ndarray,
    *,
    rows: Callable[[Any, slice], np.ndarray],
    k: int,
    exclude_self: bool,
) -> np.ndarray:
    queries, candidate_tokens = innermost(queries), innermost(candidate_tokens)
    num_restrictions, num_samples, num_sequences, num_positions = queries.shape
    left = queries.reshape(num_restrictions, num_samples, -1)
    width = candidate_tokens.shape[1]
    # Rows of a few sequences at a time, so that no more than these are there beside what was read.
    step = max(1, _ROW_BYTES // max(1, 4 * num_samples * width))
    best: np.ndarray | None = None
    for start in range(0, len(candidate_sequences), step):
        part = slice(start, start + step)
        right = rows(candidates, part).reshape(num_restrictions, num_samples, -1)
        columns = (candidate_sequences[part, None] * width + np.arange(width)).reshape(-1)
        own = _matches(query_tokens.reshape(-1), candidate_tokens[part].reshape(-1)) if exclude_self else None
        found = _strongest(left, right, columns, own, k)
        best = found if best is None else _merge(np.concatenate([best, found], axis=-1), k=k)
    assert best is not None, "a block has at least one sequence"
    return best.reshape(num_restrictions, num_sequences, num_positions, 2, k)


def _strongest(
    left: np.ndarray, right: np.ndarray, columns: np.ndarray, own: tuple[np.ndarray, np.ndarray] | None, k: int
) -> np.ndarray:
    """Return the strongest products of rows ``(restriction, sample, row)``, ``(restriction, row, 2, k)``."""
    # A product of zero is of neither sign, so rows that are not numbers never count.
    right = np.where(np.isnan(right), np.float32(0), right) if np.isnan(right[:, 0]).any() else right
    entries = np.empty((len(left), left.shape[2], 2, k), ENTRY)
    step = max(1, _BLOCK // max(1, len(columns)))
    for r in range(len(left)):
        for start in range(0, left.shape[2], step):
            block = slice(start, start + step)
            product = left[r, :, block].T @ right[r]
            if np.isnan(left[r, 0, block]).any():
                product[np.isnan(product)] = 0
            if own is not None:
                here = (own[0] >= start) & (own[0] < start + step)
                product[own[0][here] - start, own[1][here]] = 0
            for x, sign in enumerate((1, -1)):
                signed = product if sign > 0 else np.negative(product, out=product)
                entries[r, block, x] = _largest(signed, columns, k, sign)
    return entries


def _matches(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of a row and a column of the same token."""
    order = np.argsort(columns, kind="stable")
    first, last = (np.searchsorted(columns[order], rows, side=side) for side in ("left", "right"))
    count = np.where(rows >= 0, last - first, 0)
    row = np.repeat(np.arange(len(rows)), count)
    offset = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    return row, order[np.repeat(first, count) + offset]


def _largest(product: np.ndarray, columns: np.ndarray, k: int, sign: int) -> np.ndarray:
    """Return the `k` largest positive entries of each row, with their columns."""
    num_groups = product.shape[1] // _GROUP
    if num_groups > 2 * k:
        # The k largest lie in the k groups with the largest maxima (or in the rest): look for those first.
        whole = product[:, : num_groups * _GROUP].reshape(len(product), num_groups, _GROUP)
        groups = np.argpartition(whole.max(2), num_groups - k, axis=1)[:, num_groups - k :]
        place = (groups[:, :, None] * _GROUP + np.arange(_GROUP)).reshape(len(product), -1)
        rest = np.arange(num_groups * _GROUP, product.shape[1])
        place = np.concatenate([place, np.broadcast_to(rest, (len(product), len(rest)))], axis=1)
        values = np.take_along_axis(product, place, axis=1)
    else:
        place, values = np.broadcast_to(np.arange(product.shape[1]), product.shape), product
    kept = min(k, values.shape[1])
    best = np.argpartition(values, values.shape[1] - kept, axis=1)[:, values.shape[1] - kept :]
    entries = np.empty((len(product), kept), ENTRY)
    entries["value"] = sign * np.take_along_axis(values, best, axis=1)
    entries["column"] = columns[np.take_along_axis(place, best, axis=1)]
    return _ordered(entries, k, np.array(sign))


def _merge(entries: np.ndarray, *, k: int) -> np.ndarray:
    return _ordered(entries, k, np.array([1, -1])[:, None])


def _ordered(entries: np.ndarray, k: int, sign: np.ndarray) -> np.ndarray:
    """Return the `k` strongest entries of the right sign along the last axis, strongest first; the same for any order."""
    strength = sign * entries["value"]
    strength = np.where(strength > 0, strength, 0)
    order = np.lexsort((entries["column"], -strength), axis=-1)[..., :k]
    found = np.zeros((*entries.shape[:-1], k), ENTRY)
    found[..., : order.shape[-1]] = np.take_along_axis(entries, order, axis=-1)
    value = found["value"] * sign
    missing = ~(value > 0)
    found["value"][missing], found["column"][missing] = np.nan, -1
    return found
