"""One function for both kinds of arrays: called once on numpy arrays, block by block on Dask arrays."""

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
#: Largest size in bytes of the losses that one task reads; larger stored chunks are split along sequences.
_READ_BYTES = 256 * 2**20
#: Largest number of arrays that one task is given.
_MANY_PIECES = 512
#: Size in bytes of the result of one task of a matrix product.
TILE_BYTES = 64 * 2**20
#: Above this number of blocks Dask's overhead for each task counts, and small blocks are joined.
_MANY_BLOCKS = 64


def is_lazy(array: Array) -> bool:
    """Say whether an array is a Dask array."""
    return isinstance(array, da.Array)


class Traces:
    """Losses of some sequences in all draws, in one array or in several along chains and draws, which are never joined whole.

    Parameters
    ----------
    losses : numpy.ndarray or list
        Losses ``(restriction, chain, draw, sequence, position)``, or a list along chains of lists along draws of such arrays.
    """

    def __init__(self, losses: Any) -> None:
        if isinstance(losses, Traces):
            losses = losses.grid
        self.grid: list[list[np.ndarray]] = [
            [innermost(piece) for piece in row] for row in (losses if isinstance(losses, list) else [[losses]])
        ]
        first = self.grid[0][0]
        num_chains, num_draws = sum(row[0].shape[1] for row in self.grid), sum(piece.shape[2] for piece in self.grid[0])
        self.shape: tuple[int, ...] = (first.shape[0], num_chains, num_draws, *first.shape[3:])

    def select(self, restriction: int, sequences: Any) -> np.ndarray:
        """Return the losses of a few sequences in all draws, ``(chain, draw, sequence, position)``, as one array."""
        rows = [[piece[restriction][:, :, sequences] for piece in row] for row in self.grid]
        return (
            rows[0][0] if len(rows) == len(rows[0]) == 1 else np.concatenate([np.concatenate(row, 1) for row in rows])
        )

    def subset(self, sequences: slice) -> Traces:
        """Return the traces of some sequences, without copying."""
        return Traces([[piece[:, :, :, sequences] for piece in row] for row in self.grid])

    def map(self, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Apply a function that keeps chains and draws to every array, and join the results."""
        rows = [
            np.concatenate([function(piece) for piece in row], 2) if len(row) > 1 else function(row[0])
            for row in self.grid
        ]
        return np.concatenate(rows, 1) if len(rows) > 1 else rows[0]

    def first_draws(self) -> np.ndarray:
        """Return the first three draws of every chain, or as many as all chains have in their first array."""
        rows = [row[0][:, :, :3] for row in self.grid]
        num_draws = min(row.shape[2] for row in rows)
        return np.concatenate([row[:, :, :num_draws] for row in rows], 1)


def innermost(piece: Any) -> np.ndarray:
    """Return the only array in nested lists, as Dask passes a block of an axis that is contracted."""
    while isinstance(piece, list):
        (piece,) = piece
    return np.asarray(piece)


def stored_traces(loss: xr.DataArray | xr.Variable) -> Array:
    """Return losses ``(restriction, chain, draw, sequence, position)`` in their stored chunks, except that positions are whole.

    Draws are not joined: a task that needs all draws of some sequences is given all the arrays that hold them (`Traces`).
    """
    array = loss.transpose(RESTRICTION, CHAIN, DRAW, SEQUENCE, POSITION).data
    if not is_lazy(array):
        return np.asarray(array)
    stored = max(array.chunks[3], default=1)
    parts = math.ceil(stored * array.itemsize * math.prod(array.shape[n] for n in (1, 2, 4)) / _READ_BYTES)
    sequences = array.chunks[3] if parts <= 1 else math.ceil(stored / parts)
    draws = array.chunks[2]
    if len(draws) * len(array.chunks[1]) > _MANY_PIECES:
        draws = max(1, math.ceil(array.shape[2] * len(array.chunks[1]) / _MANY_PIECES))
    return array.rechunk({0: 1, 2: draws, 3: sequences, 4: -1})


def blockwise(
    function: Callable[..., np.ndarray],
    out: str,
    *arguments: tuple[Array, str],
    sizes: dict[str, int] | None = None,
    dtype: Any = np.float32,
    joined: bool = True,
    **options: Any,
) -> Array:
    """Call a function once on numpy arrays, or for each block of Dask arrays.

    Parameters
    ----------
    function : callable
        Takes one array for each of `arguments`, and `options`.
    out : str
        One letter for each axis of the result.
    *arguments : (array, str)
        Arrays with the letters of their axes.
    sizes : dict of str to int, optional
        Length of the axes that only `out` has, and of those along which the function changes the length of a block.
    dtype : dtype, default: float32
        Of the result.
    joined : bool, default: True
        Whether blocks along letters that are not in `out` are concatenated before the call or passed as nested lists.
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
        concatenate=joined or None,
        align_arrays=False,
        dtype=dtype,
        meta=np.empty((0,) * len(out), dtype),
        **options,
    )


def join(arrays: list[Array], axis: int) -> Array:
    """Concatenate numpy or Dask arrays."""
    if len(arrays) == 1:
        return arrays[0]
    return da.concatenate(arrays, axis) if any(is_lazy(a) for a in arrays) else np.concatenate(arrays, axis)


def in_tiles(rows: Array, axis: int, count: int) -> Array:
    """Rechunk a Dask array to equal blocks of at most `count` entries along an axis; return others unchanged."""
    if not is_lazy(rows):
        return rows
    chunks = rows.chunks[axis]
    count = max(1, count)
    if _equal(chunks) and max(chunks, default=1) <= count and len(chunks) <= _MANY_BLOCKS:
        return rows
    return rows.rechunk({axis: min(count, max(max(chunks), -(-rows.shape[axis] // _MANY_BLOCKS)))})


def storable(dataset: xr.Dataset) -> xr.Dataset:
    """Rechunk the lazy variables of a result to equal blocks, which Zarr needs."""
    lazy = {name: v for name, v in dataset.variables.items() if name not in dataset.xindexes and is_lazy(v.data)}
    for name, variable in lazy.items():
        uneven = {dim: max(sizes) for dim, sizes in variable.chunksizes.items() if not _equal(sizes)}
        if uneven:
            dataset[name] = dataset[name].chunk(uneven)
    return dataset


def _equal(chunks: tuple[int, ...]) -> bool:
    return len(set(chunks[:-1])) <= 1 and chunks[-1] <= chunks[0]
