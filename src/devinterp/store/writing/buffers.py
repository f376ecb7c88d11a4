"""Buffers in which the draws of a chain are gathered until they fill whole chunks of its arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import zarr

from devinterp import schema
from devinterp.errors import StoreError
from devinterp.types import Draw

#: Path of an array, where a region of it begins along its third dim, and the values to write there.
Write: TypeAlias = tuple[str, int, np.ndarray]


class ArrayCache:
    """The arrays of a run by path: a lookup takes as long as a small write, so consolidated metadata are used for all at once.

    Parameters
    ----------
    root : zarr.Group
        The run.
    """

    def __init__(self, root: zarr.Group) -> None:
        self.store = root.store
        self._root = root
        self._arrays: dict[str, zarr.Array[Any]] = {}
        if root.metadata.consolidated_metadata is not None:  # else every node of the store would be read
            nodes = root.members(max_depth=None)
            self._arrays |= {path: node for path, node in nodes if isinstance(node, zarr.Array)}

    def __getitem__(self, path: str) -> zarr.Array[Any]:
        if path not in self._arrays:
            try:
                array = self._root[path]
            except KeyError as error:
                raise StoreError(
                    f"{self.store} was deleted, or emptied, while it was written: {path!r} is missing. Sample again."
                ) from error
            if not isinstance(array, zarr.Array):
                raise StoreError(f"expected an array at {path!r} in the store; got a group.")
            self._arrays[path] = array
        return self._arrays[path]


class ChainBuffers:
    """The buffers of one chain, one for each of its arrays.

    Parameters
    ----------
    arrays : ArrayCache
        The arrays of the run.
    step : int
        Number of steps that the store has already.
    """

    def __init__(self, arrays: ArrayCache, step: int) -> None:
        self._arrays = arrays
        self._buffers: dict[str, _Buffer] = {}
        self.steps_done = step

    def append(self, draw: Draw) -> Iterator[Write]:
        """Add a draw, yielding the chunks that it fills."""
        if draw.first_step != self.steps_done:
            raise AssertionError(f"steps out of order: expected {self.steps_done}, got {draw.first_step}")
        yield from self._extend(f"{schema.TRACE}/{draw.loss_name}", draw.first_step, draw.loss)
        for name, values in draw.metrics.items():
            yield from self._extend(f"{schema.METRICS}/{name}", draw.first_step, values)
        for name, values in draw.draw_metrics.items():
            yield from self._extend(f"{schema.METRICS}/{name}", draw.first_draw, values)
        if draw.index is not None:
            for name, losses in draw.observables.items():
                path = f"{schema.OBSERVABLES}/{name}/{draw.loss_name}"
                yield from self._extend(path, draw.index, losses[None])
            for name, values in draw.recordings.items():
                yield from self._extend(f"{schema.RECORDINGS}/{name}", draw.index, values[None])
        for path, values in draw.summaries.items():
            yield path, 0, values
        self.steps_done += draw.num_steps

    def flush(self) -> Iterator[Write]:
        """Yield what is gathered of chunks that are not full yet, and was not yielded before."""
        for buffer in self._buffers.values():
            yield from buffer.flush()

    def _extend(self, path: str, first: int, rows: np.ndarray) -> Iterator[Write]:
        if path not in self._buffers:
            self._buffers[path] = _Buffer(path, self._arrays[path], first)
        yield from self._buffers[path].extend(rows)


class _Buffer:
    """Rows of one array along its third dim (steps or draws) that belong to the chunk being filled."""

    def __init__(self, path: str, array: zarr.Array[Any], first: int) -> None:
        self._path, self._array = path, array
        self._chunk_length = array.chunks[2]
        self._start, self._stop, self._flushed = first, first, first
        self._rows: np.ndarray | None = None

    def extend(self, rows: np.ndarray) -> Iterator[Write]:
        while len(rows):
            if self._rows is None:
                length = self._chunk_length - self._start % self._chunk_length
                length = min(length, self._array.shape[2] - self._start)
                self._rows = np.empty((length, *self._array.shape[3:]), self._array.dtype)
            filled = self._stop - self._start
            num = min(len(self._rows) - filled, len(rows))
            self._rows[filled : filled + num] = rows[:num]
            self._stop += num
            rows = rows[num:]
            if filled + num == len(self._rows):
                yield self._write(self._rows)
                self._start, self._rows = self._stop, None

    def flush(self) -> Iterator[Write]:
        if self._rows is not None and self._stop > self._flushed:
            # A copy, because the rest of the chunk is filled while this waits to be written.
            yield self._write(self._rows[: self._stop - self._start].copy())

    def _write(self, rows: np.ndarray) -> Write:
        self._flushed = self._start + len(rows)
        return self._path, self._start, rows
