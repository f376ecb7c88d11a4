"""One way of calling functions on numpy and on Dask arrays: now, or when the result is computed."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
from dask.delayed import Delayed, delayed
from dask.optimization import cull

#: A numpy or a Dask array.
Array: TypeAlias = Any
#: Size of a block of rows, so that a block takes some tens of megabytes.
BLOCK_BYTES = 32 * 2**20
#: How much more computing blocks one by one may be.
_REPEATED = 3
#: Results of blocks that one task joins.
_FAN_IN = 8


def is_lazy(value: Any) -> bool:
    """Say whether a value is a Dask array, blocks of one, or a delayed object."""
    return isinstance(value, da.Array | Delayed) or (isinstance(value, Blocks) and value.is_lazy)


def call(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return what a function returns; if an argument is lazy, as an object that calls it when it is computed."""
    if any(is_lazy(each) for each in arguments):
        return delayed(function, pure=False)(*arguments, **options)
    return function(*arguments, **options)


def later(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Return an object that calls a function when it is computed."""
    return delayed(function, pure=False)(*arguments, **options)


def part(value: Any, key: Any, shape: Sequence[int], dtype: Any = np.float64) -> Array:
    """Return an entry of a dict or tuple that `call` returned, as an array of known shape."""
    if isinstance(value, Delayed):
        return da.from_delayed(delayed(operator.getitem)(value, key), tuple(shape), dtype=np.dtype(dtype))
    return np.asarray(value[key], dtype=dtype)


def row_blocks(rows: Array) -> list[Any]:
    """Return the blocks of rows of a matrix ``(row, column)``: delayed ones of a Dask array, the array itself otherwise."""
    if not isinstance(rows, da.Array):
        return [rows]
    return [block for (block,) in rows.rechunk({1: -1}).to_delayed(optimize_graph=False)]


def reduced(parts: Sequence[Any], join: Callable[..., Any]) -> Any:
    """Return what is left of the results of blocks after joining a few at a time, in their order."""
    parts = list(parts)
    while len(parts) > 1:
        parts = [call(join, *parts[i : i + _FAN_IN]) for i in range(0, len(parts), _FAN_IN)]
    return parts[0]


def in_row_blocks(rows: Array, axis: int = -2) -> Array:
    """Rechunk a Dask array to whole columns and blocks of rows of some tens of megabytes; return others unchanged."""
    if not isinstance(rows, da.Array):
        return rows
    bytes_of_row = max(1, rows.shape[-1] * rows.dtype.itemsize)
    count = max(1, min(rows.shape[axis], BLOCK_BYTES // bytes_of_row))
    return rows.rechunk({rows.ndim - 1: -1, axis % rows.ndim: count})


class Blocks:
    """Blocks of rows of a matrix, one numpy array at a time, as often as they are asked for.

    Of a Dask array each is computed when its turn comes, by who asks for it: `Blocks` are given to a function that is called
    when a result is computed, and of which no more than one block at a time is to be in memory.

    Parameters
    ----------
    rows : array
        The matrix ``(row, column)``.
    """

    def __init__(self, rows: Array) -> None:
        self.rows = _Afresh(in_row_blocks(rows)) if isinstance(rows, da.Array) else rows
        self.is_lazy = isinstance(rows, da.Array)
        self.shape: tuple[int, int] = rows.shape

    def __iter__(self) -> Iterator[np.ndarray]:
        if not isinstance(self.rows, _Afresh):
            yield np.asarray(self.rows)
            return
        for number in range(self.rows.array.numblocks[0]):
            yield np.asarray(self.rows.array.blocks[number].compute(scheduler="synchronous"))


def side_by_side(rows: Array) -> Array:
    """Return an array ``(row, matrix, column)`` as ``(row, matrix and column)``, in blocks of rows if it is a Dask array."""
    flat = rows.reshape(rows.shape[0], -1)
    return in_row_blocks(flat)


def map_rows(
    function: Callable[..., np.ndarray], rows: Array, *small: Any, width: int, dtype: Any, read_again: bool = False
) -> Array:
    """Return a function of the rows of a matrix ``(row, column)`` and some small objects, block of rows by block of rows.

    Parameters
    ----------
    function : callable
        ``function(rows, *small)`` returning an array ``(row, width)``.
    rows : array
        The rows.
    *small : object
        What else the function takes; may be lazy.
    width : int
        Columns of the result.
    dtype : dtype
        Of the result.
    read_again : bool, default: False
        Whether a block is computed afresh, by the task that needs it, so that one that a first pass has read need not be kept
        in memory until what is computed of all blocks is known. Not where a block needs most of what all of them need, as of
        moments, which are stored restriction by restriction.
    """
    return map_matrices(function, rows[None], *small, width=width, dtype=dtype, read_again=read_again)[0]


def map_matrices(
    function: Callable[..., np.ndarray], rows: Array, *small: Any, width: int, dtype: Any, read_again: bool = False
) -> list[Array]:
    """Return a function of the rows of several matrices ``(matrix, row, column)``, which are read together.

    Parameters and function as of `map_rows`, which is called with all matrices at once.

    Returns
    -------
    list of array
        ``(row, width)`` for each matrix.
    """
    if not any(is_lazy(each) for each in (rows, *small)):
        return list(np.asarray(function(rows, *small), dtype=dtype))
    if not isinstance(rows, da.Array):
        rows = da.from_array(rows, chunks=-1)
    rows = rows.rechunk({0: -1, 2: -1})
    read_again = read_again and _cheap_one_by_one(rows)
    blocks: list[list[Array]] = [[] for _ in range(rows.shape[0])]
    for number, size in enumerate(rows.chunks[1]):
        block = rows.blocks[0, number, 0]
        given = _Afresh(block) if read_again else block
        # One task, whose result is taken apart: of an array that is sliced Dask may compute each slice by itself.
        result = delayed(_of_block, pure=False)(function, dtype, given, *small)
        for index, parts in enumerate(blocks):
            one = delayed(operator.getitem)(result, index)
            parts.append(da.from_delayed(one, (size, width), dtype=dtype))
    return [da.concatenate(parts, axis=0) for parts in blocks]


def _cheap_one_by_one(rows: da.Array) -> bool:
    """Say whether computing the blocks of rows ``(matrix, row, column)`` one by one is about as much as computing them all."""
    graph = dict(rows.__dask_graph__())
    number = rows.numblocks[1]
    first, _ = cull(graph, [(rows.name, 0, number // 2, 0)])
    return bool(number * len(first) <= _REPEATED * len(graph))


class _Afresh:
    """A Dask array that Dask does not see as one, so that who holds it computes it."""

    __slots__ = ("array",)

    def __init__(self, array: da.Array) -> None:
        self.array = array


def _of_block(function: Callable[..., np.ndarray], dtype: Any, rows: Any, *small: Any) -> np.ndarray:
    if isinstance(rows, _Afresh):
        rows = rows.array.compute(scheduler="synchronous")
    return np.asarray(function(rows, *small), dtype=dtype)
