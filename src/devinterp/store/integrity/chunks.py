"""Check the chunks of one array: that they are there, can be read, and hold finite values."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store

from devinterp.errors import first_line
from devinterp.store import keys
from devinterp.store.integrity.damage import Damage
from devinterp.store.reading.validate import bad_strings


@dataclass(frozen=True)
class StoredArray:
    """An array of a run, and the keys of its chunks.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    group : str
        Path of the run in the store.
    path : str
        Path of the array in the run.
    array : zarr.Array
        The array, opened by its own metadata.
    """

    store: Store
    group: str
    path: str
    array: zarr.Array[Any]

    @property
    def dims(self) -> tuple[Any, ...]:
        """Return the names of its dims; none where it does not say."""
        return tuple(getattr(self.array.metadata, "dimension_names", None) or ())

    @property
    def full_path(self) -> str:
        """Return its path in the store."""
        return f"{self.group}/{self.path}" if self.group else self.path

    @cached_property
    def present(self) -> set[str]:
        """Return all keys that the store has of it."""
        return set(keys.list_keys(self.store, f"{self.full_path}/"))

    def check_cells(self) -> Iterator[Damage]:
        """Yield the cells, one for each chain, that cannot be read."""
        node = keys.get_json(self.store, keys.metadata_key(self.full_path)) or {}
        bad = bad_strings(self.store, self.full_path, node)
        for cell in np.ndindex(self.array.shape):
            key = self._key(tuple(k // n for k, n in zip(cell, self.array.chunks, strict=True)))
            try:
                if key in bad:
                    raise ValueError(bad[key])
                self.array[cell]
            except Exception as error:
                yield Damage(self.path, f"cannot be read: {first_line(error, 200)}", cell, (key,))

    def check_chain(self, chain: tuple[int, int], num_rows: int | None) -> Iterator[Damage]:
        """Yield what is wrong with one chain, of which `num_rows` along the third dim are to be there; None: all of them."""
        for chunk in self._chunks_of(chain):
            key, region = self._key(chunk), self._region(chunk)
            expected = region[2].stop - region[2].start if num_rows is None else num_rows - region[2].start
            origin = f"{self.dims[2]} {region[2].start}"
            if key not in self.present:
                if expected > 0:
                    yield Damage(self.path, f"chunk {key} (from {origin}) is missing", chain, (key,))
                continue
            try:
                values = np.asarray(self.array[region])[chain[0] - region[0].start, chain[1] - region[1].start]
            except Exception as error:
                yield Damage(self.path, f"chunk {key} cannot be read: {first_line(error, 200)}", chain, (key,))
                continue
            if expected <= 0:
                continue
            rows = values[:expected].reshape(min(expected, len(values)), -1)
            if np.isinf(rows).any():
                yield Damage(self.path, f"chunk {key} (from {origin}) holds infinite values", chain, (key,))
            elif num_rows is not None and np.isnan(rows).all(axis=1).any():
                first = region[2].start + int(np.argmax(np.isnan(rows).all(axis=1)))
                yield Damage(self.path, f"chunk {key} has no values at {self.dims[2]} {first}", chain, (key,))

    def check_all(self) -> Iterator[Damage]:
        """Yield what is wrong with an array that belongs to no chain."""
        for chunk in np.ndindex(*self._grid):
            key = self._key(chunk)
            if key not in self.present:
                # Other writers leave out chunks of nothing but zeros; with our fill values every chunk is written.
                fill = self.array.metadata.fill_value
                if not (np.issubdtype(type(fill), np.number) and fill == 0):
                    yield Damage(self.path, f"chunk {key} is missing", keys=(key,))
                continue
            try:
                values = np.asarray(self.array[self._region(chunk)])
            except Exception as error:
                yield Damage(self.path, f"chunk {key} cannot be read: {first_line(error, 200)}", keys=(key,))
                continue
            if values.dtype.kind == "f" and np.isinf(values).any():
                yield Damage(self.path, f"chunk {key} holds infinite values", keys=(key,))

    @property
    def _grid(self) -> tuple[int, ...]:
        return tuple(-(-size // n) for size, n in zip(self.array.shape, self.array.chunks, strict=True))

    def _chunks_of(self, chain: tuple[int, int]) -> Iterator[tuple[int, ...]]:
        first = tuple(k // n for k, n in zip(chain, self.array.chunks[:2], strict=True))
        for rest in itertools.product(*(range(n) for n in self._grid[2:])):
            yield (*first, *rest)

    def _region(self, chunk: tuple[int, ...]) -> tuple[slice, ...]:
        sizes = zip(chunk, self.array.chunks, self.array.shape, strict=True)
        return tuple(slice(i * n, min((i + 1) * n, size)) for i, n, size in sizes)

    def _key(self, chunk: tuple[int, ...]) -> str:
        encoded = self.array.metadata.encode_chunk_key(chunk)
        return f"{self.full_path}/{encoded}" if encoded else self.full_path
