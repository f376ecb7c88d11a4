"""One way of calling functions on numpy and on Dask arrays: now, or when the result is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import dask
import dask.array as da
import numpy as np
from dask.delayed import Delayed
from dask.graph_manipulation import clone

#: A numpy or a Dask array.
Array: TypeAlias = Any
#: Numbers of a block of rows, so that a block takes some tens of megabytes.
BLOCK_BYTES = 32 * 2**20
#: Results of blocks that one task joins.
_FAN_IN = 8


def is_lazy(value: Any) -> bool:
    """Say whether a value is a Dask array or a delayed object."""
    return isinstance(value, da.Array | Delayed)


def call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return what a function returns; if an argument is lazy, as an object that calls it when it is computed."""
    if any(is_lazy(each) for each in arguments):
        return dask.delayed(function, pure=False)(*arguments, **options)
    return function(*arguments, **options)


def part(value: Any, key: Any, shape: Sequence[int], dtype: Any = np.float64) -> Array:
    """Return an entry of a dict or tuple that `call` returned, as an array of known shape."""
    if isinstance(value, Delayed):
        return da.from_delayed(value[key], tuple(shape), dtype=np.dtype(dtype))
    return np.asarray(value[key], dtype=dtype)


def row_blocks(rows: Array) -> list[Any]:
    """Return the blocks of rows of a matrix ``(row, column)``: delayed ones of a Dask array, the array itself otherwise."""
    if not isinstance(rows, da.Array):
        return [rows]
    return [block for (block,) in rows.rechunk({1: -1}).to_delayed()]


def reduced(parts: Sequence[Any], join: Callable[..., Any]) -> Any:
    """Return what is left of the results of blocks after joining a few at a time, in their order."""
    parts = list(parts)
    while len(parts) > 1:
        parts = [call(join, *parts[i : i + _FAN_IN]) for i in range(0, len(parts), _FAN_IN)]
    return parts[0]


def read_again(*arrays: Array) -> tuple[Array, ...]:
    """Return arrays that are computed afresh, so that a first pass over them need not be kept in memory for a second."""
    lazy = [each for each in arrays if isinstance(each, da.Array)]
    if not lazy:
        return arrays
    cloned = clone(*lazy)
    again = iter(cloned if len(lazy) > 1 else (cloned,))
    return tuple(next(again) if isinstance(each, da.Array) else each for each in arrays)


def in_row_blocks(rows: Array, axis: int = -2) -> Array:
    """Rechunk a Dask array to whole columns and blocks of rows of some tens of megabytes; return others unchanged."""
    if not isinstance(rows, da.Array):
        return rows
    bytes_of_row = max(1, rows.shape[-1] * rows.dtype.itemsize)
    count = max(1, min(rows.shape[axis], BLOCK_BYTES // bytes_of_row))
    chunks: dict[int, int] = dict.fromkeys(range(rows.ndim), 1)
    return rows.rechunk({**chunks, rows.ndim - 1: -1, axis % rows.ndim: count})


def side_by_side(rows: Array) -> Array:
    """Return an array ``(row, matrix, column)`` as ``(row, matrix and column)``, in blocks of rows if it is a Dask array."""
    flat = rows.reshape(rows.shape[0], -1)
    return in_row_blocks(flat)


def map_rows(function: Callable[..., np.ndarray], rows: Array, *small: Any, width: int, dtype: Any) -> Array:
    """Return a function of a matrix ``(row, column)`` and some small objects, block of rows by block of rows.

    Parameters
    ----------
    function : callable
        ``function(rows, *small)`` returning an array ``(row, width)``.
    rows : array
        The matrix.
    *small : object
        What else the function takes; may be lazy.
    width : int
        Columns of the result.
    dtype : dtype
        Of the result.
    """
    if not any(is_lazy(each) for each in (rows, *small)):
        return np.asarray(function(rows, *small), dtype=dtype)
    if not isinstance(rows, da.Array):
        rows = da.from_array(rows, chunks=(-1, -1))
    rows = rows.rechunk({1: -1})
    blocks = [
        da.from_delayed(dask.delayed(_as, pure=False)(function, dtype, block, *small), (size, width), dtype=dtype)
        for block, size in zip(row_blocks(rows), rows.chunks[0], strict=True)
    ]
    return da.concatenate(blocks, axis=0)


def _as(function: Callable[..., np.ndarray], dtype: Any, *arguments: Any) -> np.ndarray:
    return np.asarray(function(*arguments), dtype=dtype)
