"""The strongest entries of a matrix product, without ever holding the product."""

from __future__ import annotations

import dask.array as da
import numpy as np

from devinterp.analyses._lazy import Array, blockwise, is_lazy

#: A value and the number of the column it stands in.
ENTRY = np.dtype([("value", np.float32), ("column", np.int64)])
SIGNS = ("positive", "negative")
#: Rows of the product that are in work at a time, in numbers: they stay in the processor's cache.
_BLOCK = 2**20
_GROUP = 32
_FAN_IN = 8


def strongest_products(
    queries: Array,
    candidates: Array,
    query_tokens: np.ndarray,
    candidate_tokens: np.ndarray,
    *,
    k: int,
    exclude_self: bool,
) -> Array:
    """Return for each query row the `k` largest and the `k` smallest scalar products with candidate rows.

    Parameters
    ----------
    queries, candidates : array
        Rows ``(restriction, sample, sequence, position)``; NaN rows are never among the strongest.
    query_tokens, candidate_tokens : numpy.ndarray
        Number of each row's token, ``(sequence, position)``, the same on both sides; negative where there is none.
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
    if not is_lazy(candidates):
        per_tile = max(1, 4096 // max(1, candidates.shape[3]))
        candidates = da.from_array(candidates, chunks=(1, -1, per_tile, -1))
    found = blockwise(
        _tile,
        "rstxu",
        (queries, "rnst"),
        (candidates, "rnuv"),
        (da.from_array(query_tokens, chunks=(queries.chunks[2], -1)), "st"),
        (da.from_array(candidate_tokens, chunks=(candidates.chunks[2], -1)), "uv"),
        (da.arange(candidates.shape[2], chunks=(candidates.chunks[2],)), "u"),
        sizes={"x": 2, "u": k},
        dtype=ENTRY,
        k=k,
        exclude_self=exclude_self,
    )
    # A tree: each task merges the lists of a few, so that no task and no worker holds them all.
    while found.numblocks[-1] > 1:
        found = found.rechunk({4: _FAN_IN * k})
        found = blockwise(_merge, "rstxu", (found, "rstxu"), sizes={"u": k}, dtype=ENTRY, k=k)
    return found


def _tile(
    queries: np.ndarray,
    candidates: np.ndarray,
    query_tokens: np.ndarray,
    candidate_tokens: np.ndarray,
    candidate_sequences: np.ndarray,
    *,
    k: int,
    exclude_self: bool,
) -> np.ndarray:
    num_restrictions, num_samples, num_sequences, num_positions = queries.shape
    left = queries.reshape(num_restrictions, num_samples, -1)
    right = candidates.reshape(num_restrictions, num_samples, -1)
    # A product of zero is of neither sign, so rows that are not numbers never count.
    right = np.where(np.isnan(right), np.float32(0), right) if np.isnan(right[:, 0]).any() else right
    width = candidates.shape[3]
    columns = (candidate_sequences[:, None] * width + np.arange(width)).reshape(-1)
    entries = np.empty((num_restrictions, left.shape[2], 2, k), ENTRY)
    step = max(1, _BLOCK // max(1, len(columns)))
    own = _matches(query_tokens.reshape(-1), candidate_tokens.reshape(-1)) if exclude_self else None
    for r in range(num_restrictions):
        for start in range(0, left.shape[2], step):
            block = slice(start, start + step)
            product = left[r, :, block].T @ right[r]
            if np.isnan(left[r, 0, block]).any():
                product[np.isnan(product)] = 0
            if own is not None:
                here = (own[0] >= start) & (own[0] < start + step)
                product[own[0][here] - start, own[1][here]] = 0
            for x, sign in enumerate((1, -1)):
                entries[r, block, x] = _largest(
                    product if sign > 0 else np.negative(product, out=product), columns, k, sign
                )
    return entries.reshape(num_restrictions, num_sequences, num_positions, 2, k)


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
