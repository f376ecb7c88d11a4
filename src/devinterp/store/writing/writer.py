"""Write draws into a store while a run goes on: whole chunks, from a background thread, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
import zarr

from devinterp import schema
from devinterp.errors import StoreError
from devinterp.store.writing.checkpoints import CheckpointSlots
from devinterp.store.writing.thread import WriterThread
from devinterp.store.writing.transactions import commit
from devinterp.types import Checkpoint, Draw


class TraceWriter:
    """Consumes the draws of any number of chains of one run.

    Rows are gathered in memory until they fill a chunk, and handed to one background thread that writes it, so that
    sampling goes on meanwhile. At most `max_pending` chunks wait; a further one makes `append` wait. A write that fails
    for good makes the next `append`, `flush` or `close` raise.

    Parameters
    ----------
    root : zarr.Group
        The run, from `devinterp.store.arrays.create.create_run`.
    max_pending : int, default: 4
        Number of chunks that may wait to be written; at least 1.

    Examples
    --------
    >>> with TraceWriter(root) as writer:  # doctest: +SKIP
    ...     for draw in run_chain(...):
    ...         writer.append(draw)
    """

    def __init__(self, root: zarr.Group, *, max_pending: int = 4) -> None:
        self._arrays = _Arrays(root)
        self._num_steps = self._arrays[f"{schema.TRACE}/{schema.STEP}"].shape[0]
        self._chains: dict[tuple[int, int], _ChainBuffers] = {}
        self._thread = WriterThread(max_pending)

    def begin(self, restriction: int, chains: Sequence[int], *, step: int = 0) -> None:
        """Expect the draws of chains from a step on: what is before it is in the store already."""
        for chain in chains:
            self._chains[restriction, chain] = _ChainBuffers(self._arrays, (restriction, chain), step)
        where = (restriction, np.array(chains))
        if step == 0:
            self._submit("steps_done", where, np.int64(0))
        self._submit("error", where, "")
        self._submit("state", where, schema.RUNNING)

    def append(self, draw: Draw) -> None:
        """Take the steps and losses of one draw.

        A draw whose `error` is set ends its chain as diverged, one that completes its steps as finished.

        Raises
        ------
        StoreError
            If an earlier write failed.
        """
        self._thread.check()  # also where this draw only adds to what is gathered
        key = (draw.restriction, draw.chain)
        if key not in self._chains:
            self.begin(draw.restriction, [draw.chain])
        chain = self._chains[key]
        for array, selection, block in chain.append(draw):
            self._thread.submit(partial(array.__setitem__, selection, block))
        if draw.error is not None:
            self.finish(*key, state=schema.DIVERGED, error=draw.error)
        elif chain.steps_done == self._num_steps:
            self.finish(*key)

    def save(self, state: Checkpoint, slots: CheckpointSlots, saved: Callable[[float], None]) -> None:
        """Flush the chains of a state, then write it; `saved` is called with the seconds that took.

        Whenever the writer is killed, what the latest whole state presupposes is in the store: things are written in order.
        """
        started: list[float] = []
        self._thread.submit(lambda: started.append(time.monotonic()))
        for chain in state.chains:
            if (state.restriction, chain) in self._chains:
                self.flush(state.restriction, chain)
        self._commit(state.restriction, state.chains, f"{state.step} of {self._num_steps} steps")
        self._thread.submit(partial(slots.save, state))
        self._thread.submit(lambda: saved(time.monotonic() - started[0]))

    def remove(self, slots: CheckpointSlots) -> None:
        """Remove the states of chains that have ended, after what was appended before."""
        self._thread.submit(slots.remove)

    def flush(self, restriction: int, chain: int) -> None:
        """Hand what one chain has gathered to the background thread, full chunks or not, and record its progress."""
        key = (restriction, chain)
        buffers = self._chains[key]
        for array, selection, block in buffers.partial():
            self._thread.submit(partial(array.__setitem__, selection, block))
        self._submit("steps_done", key, np.int64(buffers.steps_done))

    def finish(self, restriction: int, chain: int, *, state: str = schema.FINISHED, error: str = "") -> None:
        """Flush one chain and record how it ended."""
        key = (restriction, chain)
        if key in self._chains:
            self.flush(restriction, chain)
            del self._chains[key]
        if error:
            self._submit("error", key, error)
        self._submit("state", key, state)
        self._commit(restriction, (chain,), state)

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

    def _commit(self, restriction: int, chains: Sequence[int], what: str) -> None:
        message = f"restriction {restriction}, chain {', '.join(map(str, chains))}: {what}"
        self._thread.submit(partial(commit, self._arrays.store, message))

    def _submit(self, status: str, where: tuple[int, int | np.ndarray], value: Any) -> None:
        array = self._arrays[f"{schema.STATUS}/{status}"]
        self._thread.submit(partial(array.set_orthogonal_selection, where, value))


_Write = tuple["zarr.Array[Any]", Any, Any]


class _ChainBuffers:
    """What one chain has gathered: a column for each of its arrays."""

    def __init__(self, arrays: _Arrays, prefix: tuple[int, int], step: int) -> None:
        self._arrays, self._prefix = arrays, prefix
        self._columns: dict[str, _Column] = {}
        self.steps_done = step

    def append(self, draw: Draw) -> Iterator[_Write]:
        if draw.first_step != self.steps_done:
            raise AssertionError(f"steps out of order: expected {self.steps_done}, got {draw.first_step}")
        yield from self._extend(f"{schema.TRACE}/{draw.loss_name}", draw.first_step, draw.loss)
        for name, values in draw.metrics.items():
            yield from self._extend(f"{schema.METRICS}/{name}", draw.first_step, values)
        if draw.index is not None:
            for name, losses in draw.observables.items():
                path = f"{schema.OBSERVABLES}/{name}/{draw.loss_name}"
                yield from self._extend(path, draw.index, losses[None])
        for path, values in draw.summaries.items():
            yield self._arrays[path], self._prefix, values
        self.steps_done += draw.num_steps

    def partial(self) -> Iterator[_Write]:
        for column in self._columns.values():
            yield from column.partial()

    def _extend(self, path: str, first: int, rows: np.ndarray) -> Iterator[_Write]:
        if path not in self._columns:
            self._columns[path] = _Column(self._arrays[path], self._prefix, first)
        yield from self._columns[path].extend(rows)


class _Column:
    """Rows of one array along its third axis (steps or draws), gathered into whole chunks."""

    def __init__(self, array: zarr.Array[Any], prefix: tuple[int, int], first: int) -> None:
        self._array, self._prefix = array, prefix
        self._chunk = array.chunks[2]
        self._start, self._stop = first, first
        self._buffer: np.ndarray | None = None
        self._flushed = first

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
        if self._buffer is not None and self._stop > self._flushed:
            # A copy, because the rest of the chunk is still to be filled while this waits to be written.
            yield self._write(self._buffer[: self._stop - self._start].copy())

    def _write(self, block: np.ndarray) -> _Write:
        self._flushed = self._start + len(block)
        return self._array, (*self._prefix, slice(self._start, self._flushed)), block


class _Arrays:
    """The arrays of a run by path, each looked up in the store once: a lookup costs as much as a small write."""

    def __init__(self, root: zarr.Group) -> None:
        self.store = root.store
        self._root = root
        self._found: dict[str, zarr.Array[Any]] = {}

    def __getitem__(self, path: str) -> zarr.Array[Any]:
        if path not in self._found:
            try:
                array = self._root[path]
            except KeyError as error:
                raise StoreError(
                    f"{self.store} was deleted, or emptied, while it was written: {path!r} is missing. Sample again."
                ) from error
            if not isinstance(array, zarr.Array):
                raise StoreError(f"expected an array at {path!r} in the store; found a group.")
            self._found[path] = array
        return self._found[path]
