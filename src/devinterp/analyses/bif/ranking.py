"""The strongest entries of each row of a matrix product, in an order that does not depend on how the product is cut into tiles.

Entries that agree to float32 rounding count as equal, and equal entries stand in the order of their columns: which of several
equal ones are kept is then the same whichever tiles they are in and however the product of each tile is rounded.
"""

from __future__ import annotations

import numpy as np

#: A value, the number of the column it stands in, and how far rounding may have moved it.
ENTRY = np.dtype([("value", np.float32), ("column", np.int64), ("rounding", np.float32)])
#: Numbers of the product that are computed at a time: they stay in the processor's cache.
_BLOCK = 2**20
_GROUP = 32
#: A scalar product of n float32 numbers is rounded by up to about this times sqrt(n), relative to the norms of both vectors.
_ROUNDING = 8e-8
_SMALLEST = np.float32(np.finfo(np.float32).smallest_subnormal)


def strongest_products(
    left: np.ndarray, right: np.ndarray, columns: np.ndarray, own: tuple[np.ndarray, np.ndarray] | None, k: int
) -> np.ndarray:
    """Return the largest and the smallest scalar products of each row with all columns, ``(restriction, row, 2, k)``.

    Parameters
    ----------
    left, right : numpy.ndarray
        ``(restriction, sample, row)`` and ``(restriction, sample, column)``, float32. Vectors with a NaN have no products.
    columns : numpy.ndarray
        Number of each column, in increasing order.
    own : (numpy.ndarray, numpy.ndarray) or None
        Pairs of a row and a column that are left out.
    k : int
        Number of products of each sign, of dtype `ENTRY`; NaN and -1 where there are fewer.
    """
    # A product of zero is neither positive nor negative, so what is set to zero is never among the strongest.
    left, right = (_without_nan(each) for each in (left, right))
    row_norm, column_norm = (np.sqrt(np.einsum("rnk,rnk->rk", each, each)) for each in (left, right))
    row_norm *= np.float32(_ROUNDING * left.shape[1] ** 0.5)
    entries = np.empty((len(left), left.shape[2], 2, k), ENTRY)
    step = max(1, _BLOCK // max(1, len(columns)))
    for r in range(len(left)):
        for start in range(0, left.shape[2], step):
            block = slice(start, start + step)
            product = left[r, :, block].T @ right[r]
            if own is not None:
                inside = (own[0] >= start) & (own[0] < start + step)
                product[own[0][inside] - start, own[1][inside]] = 0
            for index, sign in enumerate((1, -1)):
                signed = product if sign > 0 else np.negative(product, out=product)
                place, values = _largest(signed, k, row_norm[r, block] * column_norm[r].max(initial=0))
                kept = np.empty(values.shape, ENTRY)
                kept["value"], kept["column"] = sign * values, columns[place]
                kept["rounding"] = row_norm[r, block, None] * column_norm[r][place]
                entries[r, block, index] = _ordered(kept, k, np.array(sign))
    return entries


def _without_nan(rows: np.ndarray) -> np.ndarray:
    """Set vectors ``(restriction, sample, vector)`` with a NaN to zero as a whole."""
    broken = np.isnan(rows.sum(axis=1, keepdims=True))
    return np.where(broken, np.float32(0), rows) if broken.any() else rows


def _largest(product: np.ndarray, k: int, rounding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return index and value of the `k` largest positive entries of each row and of all that may equal them, zero-padded."""
    num_groups = product.shape[1] // _GROUP
    if num_groups > 2 * k:
        # The k-th largest maximum of groups is at most the k-th largest entry, and much sooner found.
        maxima = product[:, : num_groups * _GROUP].reshape(len(product), num_groups, _GROUP).max(2)
        place, values = _at_least(product, _kth_largest(maxima, k) - rounding)
    else:
        place, values = _at_least(product, _kth_largest(product, k) - rounding)
    if values.shape[1] > 2 * k:
        again, values = _at_least(values, _kth_largest(values, k) - rounding)
        place = np.take_along_axis(place, again, axis=1)
    return place, values


def _kth_largest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the `k`-th largest entry of each row, or zero if there are fewer."""
    size = values.shape[1]
    return np.partition(values, size - k, axis=1)[:, size - k] if size > k else np.zeros(len(values), values.dtype)


def _at_least(values: np.ndarray, threshold: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return index and value of the positive entries of each row that are not below a threshold, padded with zeros."""
    row, index = np.nonzero(values >= np.maximum(threshold, _SMALLEST)[:, None])
    count = np.bincount(row, minlength=len(values))
    place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    indices = np.zeros((len(values), max(1, count.max(initial=0))), np.int64)
    kept = np.zeros(indices.shape, values.dtype)
    indices[row, place], kept[row, place] = index, values[row, index]
    return indices, kept


def merge(entries: np.ndarray, *, k: int) -> np.ndarray:
    """Return the `k` strongest entries of each row of lists ``(..., sign, entry)``."""
    return _ordered(entries, k, np.array([1, -1])[:, None])


def _ordered(entries: np.ndarray, k: int, sign: np.ndarray) -> np.ndarray:
    """Return the `k` strongest entries of the right sign along the last axis, strongest first, equal ones by column."""
    strength = np.maximum(np.nan_to_num(sign * entries["value"]), 0)
    order = np.lexsort((entries["column"], -strength), axis=-1)
    strength, entries = (np.take_along_axis(each, order, axis=-1) for each in (strength, entries))
    # Neighbours that agree to rounding are one class; classes stand in order of strength.
    rounding = np.maximum(entries["rounding"][..., :-1], entries["rounding"][..., 1:])
    new_class = np.diff(-strength, axis=-1) > rounding
    rank = np.concatenate([np.zeros((*strength.shape[:-1], 1), int), np.cumsum(new_class, axis=-1)], axis=-1)
    rank[strength == 0] = strength.shape[-1]
    order = np.lexsort((entries["column"], rank), axis=-1)[..., :k]
    strongest = np.zeros((*entries.shape[:-1], k), ENTRY)
    strongest[..., : order.shape[-1]] = np.take_along_axis(entries, order, axis=-1)
    missing = ~(strongest["value"] * sign > 0)
    strongest["value"][missing], strongest["column"][missing] = np.nan, -1
    return strongest
