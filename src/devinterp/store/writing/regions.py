"""Regions of arrays that chains write: whole chunks as files where the store is a directory, everything else through zarr."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import product
from typing import Any, final

import numpy as np
import zarr
from zarr.storage import LocalStore

from devinterp.store import keys
from devinterp.store.arrays.chunk_codec import encode, is_plain


@final
class RegionWriter:
    """Writes regions of one array.

    Parameters
    ----------
    array : zarr.Array
        The array; its first two dims are restriction and chain, of which each has chunks of its own.
    """

    def __init__(self, array: zarr.Array[Any]) -> None:
        self._array, self._chunks = array, tuple(array.chunks)
        self._node: dict[str, Any] = array.metadata.to_dict()
        self._store = array.store
        plain = keys.is_directory(self._store) and is_plain(self._store, self._node)
        self._is_plain = plain and self._chunks[:2] == (1, 1)
        #: Of chunks of which this wrote the first rows only, by chain and number along the third dim: where they end.
        self._begun: dict[tuple[int, int, int], int] = {}

    def write(self, chain: tuple[int, int], start: int, values: np.ndarray) -> None:
        """Write values of one chain.

        Parameters
        ----------
        chain : tuple of int
            Restriction and chain, each by its number.
        start : int
            Where they begin along the third dim; 0 for arrays without one.
        values : numpy.ndarray
            All of the region, ``(third dim, ...)``; without dims for arrays of two.
        """
        grid = self._grid(start, values)
        if not self._is_plain or self._keeps_others(chain, start, values, grid):
            self._through_zarr(chain, start, values)
            return
        for place in product(*grid):
            corner = [number * length for number, length in zip(place, self._chunks[2:], strict=True)]
            corner[:1] = [first - start for first in corner[:1]]
            region = (slice(first, first + size) for first, size in zip(corner, self._chunks[2:], strict=True))
            self._write_chunk((*chain, *place), np.asarray(values[tuple(region)]))

    def write_cells(self, cells: tuple[int | np.ndarray, int | np.ndarray], value: np.int64 | str) -> None:
        """Write one value for chains of an array of two dims.

        Parameters
        ----------
        cells : tuple of int or numpy.ndarray
            Restrictions and chains, each by their numbers; of several every pair.
        value : numpy.int64 or str
            The value.
        """
        if self._is_plain:
            for cell in product(*(np.atleast_1d(numbers).tolist() for numbers in cells)):
                self._write_chunk(cell, np.asarray(value))
        else:
            # Slices rather than numbers: with numpy 1 zarr cannot write text into a single cell, and loses long text of lists.
            places = tuple(slice(n, n + 1) if isinstance(n, int) else n for n in cells)
            self._array.set_orthogonal_selection(places, value)

    def _grid(self, start: int, values: np.ndarray) -> list[range]:
        """Return the numbers of the chunks along each dim after the second."""
        chunks = self._chunks[2:]
        if not chunks:
            return []
        along = range(start // chunks[0], -(-(start + len(values)) // chunks[0]))
        return [along, *(range(-(-size // n)) for size, n in zip(self._array.shape[3:], chunks[1:], strict=True))]

    def _keeps_others(self, chain: tuple[int, int], start: int, values: np.ndarray, grid: list[range]) -> bool:
        """Return whether a chunk of the region holds, or may hold, other rows that must stay."""
        shape, chunks = self._array.shape[2:], self._chunks[2:]
        if values.shape[1:] != shape[1:]:
            return True
        if not grid or not len(grid[0]):
            return False
        stop, last = start + len(values), grid[0][-1]
        begun = [self._begun.pop((*chain, number), None) for number in grid[0]][-1]
        if start % chunks[0]:
            return True
        if stop % chunks[0] == 0 or stop == shape[0]:
            return False
        # What a chain gathers is written again and again until it fills a chunk: then the file holds no rows beyond these.
        if begun is None or begun > stop:
            places = product([last], *grid[1:])
            if any(os.path.exists(self._file((*chain, *place))) for place in places):  # noqa: PTH110  # faster
                return True
        self._begun[*chain, last] = stop
        return False

    def _file(self, place: tuple[int, ...]) -> str:
        assert isinstance(self._store, LocalStore)
        return f"{self._store.root}/{self._array.path}/c/{'/'.join(map(str, place))}"

    def _write_chunk(self, place: tuple[int, ...], part: np.ndarray) -> None:
        """Write a chunk, filled up where the array ends in it; none where it would hold nothing but the fill value."""
        fill, path = self._array.fill_value, self._file(place)
        if _is_filled(part, fill):
            with suppress(FileNotFoundError):
                os.remove(path)  # noqa: PTH107
            return
        if part.dtype.kind != "U":
            part = part.astype(self._array.dtype, copy=False)
        part = part.reshape(1, 1, *part.shape)
        if part.shape != self._chunks:
            chunk = np.full(self._chunks, fill, dtype=part.dtype)
            chunk[tuple(slice(0, size) for size in part.shape)] = part
            part = chunk
        keys.write_file(path, encode(part, self._node))

    def _through_zarr(self, chain: tuple[int, int], start: int, values: np.ndarray) -> None:
        region = (slice(start, start + len(values)),) if self._array.ndim > 2 else ()
        self._array[(*chain, *region)] = values


def _is_filled(values: np.ndarray, fill: Any) -> bool:
    """Return whether all values are the fill value of their array."""
    first = values.flat[0] if values.size else fill
    is_nan = values.dtype.kind == "f" and bool(np.isnan(fill))
    if not (np.isnan(first) if is_nan else first == fill):
        return False
    return bool(np.isnan(values).all() if is_nan else (values == fill).all())
