"""Products of index sets: a selection of elements that is a set of indices in every dimension of a parameter.

Set operations return None where the result is not such a product.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from devinterp.errors import InvalidInputError

Index = tuple[Tensor | None, ...]
"""Sorted unique int64 indices on the CPU for each dimension; None stands for all of a dimension."""


def index_set(dim: int, size: int, indices: Iterable[int] | Tensor) -> Tensor | None:
    """Return `indices` of dimension `dim` sorted and unique, or None when they are all of its `size`."""
    if isinstance(indices, Tensor):
        index = torch.unique(indices.detach().to("cpu", torch.int64))
    else:
        index = torch.as_tensor(sorted(set(indices)), dtype=torch.int64)
    if len(index) and (int(index[0]) < 0 or int(index[-1]) >= size):
        raise InvalidInputError(
            f"indices of dimension {dim} must lie in 0..{size - 1}, got {int(index[0])}..{int(index[-1])}."
        )
    return None if len(index) == size else index


def is_contiguous(indices: Tensor) -> bool:
    """Say whether sorted indices are consecutive and not empty."""
    return len(indices) > 0 and int(indices[-1]) - int(indices[0]) + 1 == len(indices)


def equal(a: Tensor | None, b: Tensor | None) -> bool:
    """Say whether two index sets of one dimension are the same."""
    return a is b if a is None or b is None else torch.equal(a, b)


def contains(a: Tensor | None, b: Tensor | None) -> bool:
    """Say whether index set `a` contains `b`."""
    return a is None or (b is not None and bool(torch.isin(b, a).all()))


def union(shape: Sequence[int], a: Index, b: Index) -> Index | None:
    """Return the union of two non-empty products, or None."""
    if all(map(contains, a, b)):
        return a
    if all(map(contains, b, a)):
        return b
    differing = [dim for dim, (x, y) in enumerate(zip(a, b, strict=True)) if not equal(x, y)]
    if len(differing) > 1:
        return None
    (dim,) = differing
    merged = torch.cat([_explicit(indices[dim], shape[dim]) for indices in (a, b)])
    return (*a[:dim], index_set(dim, shape[dim], merged), *a[dim + 1 :])


def intersection(a: Index, b: Index) -> Index:
    """Return the intersection of two products, which is one itself."""
    return tuple(y if x is None else x if y is None else x[torch.isin(x, y)] for x, y in zip(a, b, strict=True))


def difference(shape: Sequence[int], a: Index, b: Index) -> Index | None:
    """Return `a` without `b`, or None; `a` must not lie in `b`."""
    outside = [dim for dim, (x, y) in enumerate(zip(a, b, strict=True)) if not contains(y, x)]
    if len(outside) > 1:
        return None
    # Inside `b` in all dimensions but one, what remains of `a` has fewer indices in that dimension only.
    (dim,) = outside
    indices = _explicit(a[dim], shape[dim])
    remaining = indices[~torch.isin(indices, _explicit(b[dim], shape[dim]))]
    return (*a[:dim], remaining, *a[dim + 1 :])


def _explicit(indices: Tensor | None, size: int) -> Tensor:
    return torch.arange(size) if indices is None else indices


def broadcast_indices(shape: Sequence[int], selected: dict[int, Tensor]) -> tuple[Any, ...]:
    """Return an index of a tensor of this shape that addresses a product of index sets in one assignment.

    `selected` holds indices by dimension; dimensions left out are whole. Advanced indices that broadcast against each
    other address their product.
    """
    first, ndim = min(selected), len(shape)
    device = selected[first].device
    index: list[Any] = [slice(None)] * first
    for dim in range(first, ndim):
        # From the first index set on every dimension is indexed, so that torch keeps their order.
        indices = selected.get(dim, torch.arange(shape[dim], device=device))
        index.append(indices.reshape(-1, *[1] * (ndim - 1 - dim)))
    return tuple(index)
