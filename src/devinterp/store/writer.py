"""Write draws into a store while a run goes on: whole chunks, from a background thread, in bounded memory."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np
import zarr

from devinterp import schema
from devinterp.errors import StoreError
from devinterp.types import Draw


class TraceWriter:
    """Consumes the draws of any number of chains of one run.

    Rows are gathered in memory until they fill a chunk, and handed to one background thread that writes it, so that
    sampling goes on meanwhile. At most `max_pending` chunks wait; a further one makes `append` wait. A write that fails
    makes the next `append`, `flush` or `close` raise.

    Parameters
    ----------
    root : zarr.Group
        The run, from `devinterp.store.create.create`.
    max_pending : int, default: 4
        Number of chunks that may wait to be written; at least 1.

    Examples
    --------
    >>> with TraceWriter(root) as writer:  # doctest: +SKIP
    ...     for draw in run_chain(...):
    ...         writer.append(draw)
    """

    def __init__(self, root: zarr.Group, *, max_pending: int = 4) -> None:
        self._root = root
        self._num_steps = _array(root, f"{schema.TRACE}/loss").shape[2]
        self._chains: dict[tuple[int, int], _ChainBuffers] = {}
        self._thread = _WriterThread(max_pending)

    def append(self, draw: Draw) -> None:
        """Take the steps and losses of one draw.

        A draw whose `error` is set ends its chain as diverged, one that completes its steps as finished.

        Raises
        ------
        StoreError
            If an earlier write failed.
        """
        key = (draw.restriction, draw.chain)
        if key not in self._chains:
            self._chains[key] = _ChainBuffers(self._root, *key)
            self._set_state(key, schema.RUNNING)
        chain = self._chains[key]
        for array, selection, block in chain.append(draw):
            self._thread.submit(array, selection, block)
        if draw.error is not None:
            self.finish(*key, state=schema.DIVERGED, error=draw.error)
        elif chain.steps_done == self._num_steps:
            self.finish(*key)

    def flush(self, restriction: int, chain: int) -> None:
        """Hand what one chain has gathered to the background thread, full chunks or not, and record its progress."""
        key = (restriction, chain)
        buffers = self._chains[key]
        for array, selection, block in buffers.partial():
            self._thread.submit(array, selection, block)
        self._thread.submit(self._status("steps_done"), key, np.int64(buffers.steps_done))

    def finish(self, restriction: int, chain: int, *, state: str = schema.FINISHED, error: str = "") -> None:
        """Flush one chain and record how it ended."""
        key = (restriction, chain)
        if key in self._chains:
            self.flush(restriction, chain)
            del self._chains[key]
        self._set_state(key, state, error)

    def close(self, *, state: str = schema.INTERRUPTED) -> None:
        """Flush all chains, record those not finished as `state`, and wait until everything is written.

        Raises
        ------
        StoreError
            If a write failed.
        """
        try:
            for restriction, chain in list(self._chains):
                self.finish(restriction, chain, state=state)
        finally:
            self._thread.close()

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except StoreError:
            # The error that ended the run is the one to show; it may be this very failure.
            if error is None:
                raise

    def _set_state(self, key: tuple[int, int], state: str, error: str = "") -> None:
        if error:
            self._thread.submit(self._status("error"), key, error)
        self._thread.submit(self._status("state"), key, state)

    def _status(self, name: str) -> zarr.Array[Any]:
        return _array(self._root, f"{schema.STATUS}/{name}")


_Write = tuple["zarr.Array[Any]", Any, Any]


class _ChainBuffers:
    """What one chain has gathered: a column for each of its arrays."""

    def __init__(self, root: zarr.Group, restriction: int, chain: int) -> None:
        self._root = root
        self._prefix = (restriction, chain)
        self._columns: dict[str, _Column] = {}
        self.steps_done = 0

    def append(self, draw: Draw) -> Iterator[_Write]:
        if draw.first_step != self.steps_done:
            raise AssertionError(f"steps out of order: expected {self.steps_done}, got {draw.first_step}")
        yield from self._extend(f"{schema.TRACE}/loss", draw.first_step, draw.loss)
        for name, values in draw.metrics.items():
            yield from self._extend(f"{schema.METRICS}/{name}", draw.first_step, values)
        if draw.index is not None:
            for name, losses in draw.observables.items():
                yield from self._extend(f"{schema.OBSERVABLES}/{name}/loss", draw.index, losses[None])
        self.steps_done += draw.num_steps

    def partial(self) -> Iterator[_Write]:
        for column in self._columns.values():
            yield from column.partial()

    def _extend(self, path: str, first: int, rows: np.ndarray) -> Iterator[_Write]:
        if path not in self._columns:
            self._columns[path] = _Column(_array(self._root, path), self._prefix, first)
        yield from self._columns[path].extend(rows)


class _Column:
    """Rows of one array along its third axis (steps or draws), gathered into whole chunks."""

    def __init__(self, array: zarr.Array[Any], prefix: tuple[int, int], first: int) -> None:
        self._array, self._prefix = array, prefix
        self._chunk = array.chunks[2]
        self._start, self._stop = first, first
        self._buffer: np.ndarray | None = None

    def extend(self, rows: np.ndarray) -> Iterator[_Write]:
        while len(rows):
            if self._buffer is None:
                num = min(self._chunk - self._start % self._chunk, self._array.shape[2] - self._start)
                self._buffer = np.empty((num, *self._array.shape[3:]), self._array.dtype)
            filled = self._stop - self._start
            num = min(len(self._buffer) - filled, len(rows))
            self._buffer[filled : filled + num] = rows[:num]
            self._stop += num
            rows = rows[num:]
            if filled + num == len(self._buffer):
                yield self._write(self._buffer)
                self._start, self._buffer = self._stop, None

    def partial(self) -> Iterator[_Write]:
        if self._buffer is not None:
            # A copy, because the rest of the chunk is still to be filled while this waits to be written.
            yield self._write(self._buffer[: self._stop - self._start].copy())

    def _write(self, block: np.ndarray) -> _Write:
        return self._array, (*self._prefix, slice(self._start, self._start + len(block))), block


class _WriterThread:
    """One thread that writes what it is given, in order, and keeps the first error."""

    def __init__(self, max_pending: int) -> None:
        self._queue: queue.Queue[_Write | None] = queue.Queue(maxsize=max_pending)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="devinterp-writer", daemon=True)
        self._thread.start()

    def submit(self, array: zarr.Array[Any], selection: Any, value: Any) -> None:
        self._raise()
        self._queue.put((array, selection, value))

    def close(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        self._raise()

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            if self._error is None:
                array, selection, value = item
                try:
                    array[selection] = value
                except BaseException as error:  # handed to the sampling thread, which raises it
                    self._error = error

    def _raise(self) -> None:
        if self._error is not None:
            raise StoreError(
                f"writing to the store failed: {self._error}. What was written before is kept; free space or restore access, "
                "then run again."
            ) from self._error


def _array(root: zarr.Group, path: str) -> zarr.Array[Any]:
    array = root[path]
    if not isinstance(array, zarr.Array):
        raise StoreError(f"expected an array at {path!r} in the store; found a group.")
    return array
