"""The same functions on numpy arrays at once and on Dask arrays tile by tile."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
import xarray as xr

from devinterp.schema import CHAIN, DRAW, POSITION, RESTRICTION, SEQUENCE

#: A numpy or a Dask array.
Array: TypeAlias = Any
#: The most that one task reads: all draws of the sequences of a stored chunk, or of a part of them.
_READ_BYTES = 256 * 2**20
#: What one task of a matrix product writes.
TILE_BYTES = 64 * 2**20
#: From so many blocks on, the scheduler's own work counts; small blocks are joined.
_MANY_BLOCKS = 64


def is_lazy(array: Array) -> bool:
    """Say whether an array is a Dask array."""
    return isinstance(array, da.Array)


def whole_traces(loss: xr.DataArray) -> Array:
    """Return losses ``(restriction, chain, draw, sequence, position)`` in tiles that hold all draws of some sequences."""
    array = loss.transpose(RESTRICTION, CHAIN, DRAW, SEQUENCE, POSITION).data
    if not is_lazy(array):
        return np.asarray(array)
    bytes_each = max(1, array.itemsize * math.prod(array.shape[n] for n in (1, 2, 4)))
    cut = max(1, _READ_BYTES // bytes_each)
    sequences = array.chunks[3] if max(array.chunks[3], default=1) <= cut else cut
    return array.rechunk({0: 1, 1: -1, 2: -1, 3: sequences, 4: -1})


def blockwise(
    function: Callable[..., np.ndarray],
    out: str,
    *arguments: tuple[Array, str],
    sizes: dict[str, int] | None = None,
    dtype: Any = np.float32,
    **options: Any,
) -> Array:
    """Call a function on numpy arrays, or for each block of Dask arrays.

    Parameters
    ----------
    function : callable
        Takes one array for each of `arguments`, and `options`.
    out : str
        One letter for each axis of the result.
    *arguments : (array, str)
        Arrays with the letters of their axes. Letters that are not in `out` must have one chunk.
    sizes : dict of str to int, optional
        Length of the axes that only `out` has, and of those whose blocks change their length.
    dtype : dtype, default: float32
        Of the result.
    **options
        Passed to `function`.
    """
    if not any(is_lazy(array) for array, _ in arguments):
        return function(*(array for array, _ in arguments), **options)
    known = {letter for _, letters in arguments for letter in letters}
    new = {letter: size for letter, size in (sizes or {}).items() if letter not in known}
    changed = {letter: size for letter, size in (sizes or {}).items() if letter in known}
    flat = [item for array, letters in arguments for item in (array, letters)]
    return da.blockwise(
        function,
        out,
        *flat,
        new_axes=new,
        adjust_chunks=changed,
        concatenate=True,
        align_arrays=False,
        dtype=dtype,
        meta=np.empty((0,) * len(out), dtype),
        **options,
    )


def join(arrays: list[Array], axis: int) -> Array:
    """Return arrays one after the other."""
    if len(arrays) == 1:
        return arrays[0]
    return da.concatenate(arrays, axis) if any(is_lazy(a) for a in arrays) else np.concatenate(arrays, axis)


def in_tiles(rows: Array, axis: int, count: int) -> Array:
    """Return a lazy array in equal blocks of at most `count` entries along an axis, and not too many; others as they are."""
    if not is_lazy(rows):
        return rows
    chunks = rows.chunks[axis]
    count = max(1, count)
    if _equal(chunks) and max(chunks, default=1) <= count and len(chunks) <= _MANY_BLOCKS:
        return rows
    return rows.rechunk({axis: min(count, max(max(chunks), -(-rows.shape[axis] // _MANY_BLOCKS)))})


def storable(dataset: xr.Dataset) -> xr.Dataset:
    """Return a result whose lazy variables have equal blocks, as Zarr needs them."""
    for name, variable in dataset.variables.items():
        chunks = variable.chunksizes
        uneven = {dim: max(sizes) for dim, sizes in chunks.items() if not _equal(sizes)}
        if uneven:
            dataset[name] = dataset[name].chunk(uneven)
    return dataset


def _equal(chunks: tuple[int, ...]) -> bool:
    return len(set(chunks[:-1])) <= 1 and chunks[-1] <= chunks[0]
