"""The largest and smallest entries of each row of a matrix product, computed a block of rows at a time."""

from __future__ import annotations

import numpy as np

#: A value and the number of the column it stands in.
ENTRY = np.dtype([("value", np.float32), ("column", np.int64)])
#: Numbers of the product that are computed at a time: they stay in the processor's cache.
_BLOCK = 2**20
_GROUP = 32


def strongest_products(
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


def merge(entries: np.ndarray, *, k: int) -> np.ndarray:
    """Return the `k` strongest entries of each row of lists ``(..., sign, entry)``."""
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
