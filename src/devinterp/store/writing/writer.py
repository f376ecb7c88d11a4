"""Write the draws of a run into its store: whole chunks, from a background thread, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType

import numpy as np
import zarr

from devinterp import schema
from devinterp.errors import StoreError
from devinterp.store.writing.buffers import ArrayCache, ChainBuffers
from devinterp.store.writing.checkpoints import CheckpointSlots
from devinterp.store.writing.regions import RegionWriter
from devinterp.store.writing.thread import WriterThread
from devinterp.store.writing.transactions import commit
from devinterp.types import ChainKey, Checkpoint, Draw


class TraceWriter:
    """Write the draws of any number of chains of one run.

    Draws are buffered until they fill a chunk, which a background thread writes while sampling goes on. With more than
    `max_bytes` of chunks that are not written, `append` blocks. After a write that failed for good, the next `append`, `flush`
    or `close` raises.

    Parameters
    ----------
    root : zarr.Group
        The run, from `devinterp.store.arrays.create.create_run`.
    max_bytes : int, default: 256 MiB
        Size of the chunks that wait or are being written; one is let through whatever its size.

    Examples
    --------
    >>> with TraceWriter(root) as writer:  # doctest: +SKIP
    ...     for draw in run_chain(...):
    ...         writer.append(draw)
    """

    def __init__(self, root: zarr.Group, *, max_bytes: int = 256 * 2**20) -> None:
        self._arrays = ArrayCache(root)
        self._num_steps = self._arrays[f"{schema.TRACE}/{schema.STEP}"].shape[0]
        self._regions: dict[str, RegionWriter] = {}
        self._chains: dict[tuple[int, int], ChainBuffers] = {}
        self._thread = WriterThread(max_bytes)

    def begin(self, chains: Sequence[ChainKey], *, step: int = 0) -> None:
        """Mark chains as running; their next draws begin at a step, before which the store has everything."""
        for key in chains:
            self._chains[key] = ChainBuffers(self._arrays, step)
        for cells in _blocks(chains):
            if step == 0:
                self._set_status("steps_done", cells, np.int64(0))
            self._set_status("error", cells, "")
            self._set_status("state", cells, schema.RUNNING)

    def append(self, draw: Draw) -> None:
        """Buffer the steps and losses of one draw.

        A draw with an `error` ends its chain as diverged, one with the last step as finished.

        Raises
        ------
        StoreError
            If an earlier write failed.
        """
        self._thread.check()  # also where this draw fills no chunk
        key = (draw.restriction, draw.chain)
        if key not in self._chains:
            self.begin([key])
        chain = self._chains[key]
        for path, start, values in chain.append(draw):
            self._write(path, key, start, values)
        if draw.error is not None:
            self.finish(*key, state=schema.DIVERGED, error=draw.error)
        elif chain.steps_done == self._num_steps:
            self.finish(*key)

    def save(self, checkpoint: Checkpoint, slots: CheckpointSlots, saved: Callable[[float], None]) -> None:
        """Flush the chains of a checkpoint, then write it; `saved` is called with the seconds that took.

        Writes are done in order: whenever the writer is killed, the store has every draw before its latest checkpoint.
        """
        started: list[float] = []
        self._thread.submit(lambda: started.append(time.monotonic()))
        for key in checkpoint.keys:
            if key in self._chains:
                self.flush(*key)
        self._commit(checkpoint.restrictions, checkpoint.chains, f"{checkpoint.step} of {self._num_steps} steps")
        self._thread.submit(partial(slots.save, checkpoint))
        self._thread.submit(lambda: saved(time.monotonic() - started[0]))

    def remove(self, slots: CheckpointSlots) -> None:
        """Remove the checkpoints of chains that have ended, once their draws are written."""
        self._thread.submit(slots.remove)

    def flush(self, restriction: int, chain: int) -> None:
        """Queue what is buffered of one chain, full chunks or not, and its number of steps."""
        key = (restriction, chain)
        buffers = self._chains[key]
        for path, start, values in buffers.flush():
            self._write(path, key, start, values)
        self._set_status("steps_done", key, np.int64(buffers.steps_done))

    def finish(self, restriction: int, chain: int, *, state: str = schema.FINISHED, error: str = "") -> None:
        """Flush one chain and write how it ended."""
        key = (restriction, chain)
        if key in self._chains:
            self.flush(restriction, chain)
            del self._chains[key]
        if error:
            self._set_status("error", key, error)
        self._set_status("state", key, state)
        self._commit((restriction,), (chain,), state)

    def close(self, *, state: str = schema.INTERRUPTED) -> None:
        """Flush all chains, mark those that have not ended as `state`, and wait until everything is written.

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
            # The error that ended the run is the one to raise; it may be this very failure.
            if error is None:
                raise

    def _commit(self, restrictions: Sequence[int], chains: Sequence[int], event: str) -> None:
        numbers = (", ".join(map(str, each)) for each in (restrictions, chains))
        message = "restriction {}, chain {}: {}".format(*numbers, event)
        self._thread.submit(partial(commit, self._arrays.store, message))

    def _set_status(self, name: str, cells: tuple[int | np.ndarray, int | np.ndarray], value: np.int64 | str) -> None:
        """Queue the same value for one chain, or for a block of restrictions and chains."""
        self._thread.submit(partial(self._region(f"{schema.STATUS}/{name}").write_cells, cells, value))

    def _region(self, path: str) -> RegionWriter:
        if path not in self._regions:
            self._regions[path] = RegionWriter(self._arrays[path])
        return self._regions[path]

    def _write(self, path: str, chain: ChainKey, start: int, values: np.ndarray) -> None:
        """Queue the writing of a region of an array."""
        self._thread.submit(partial(self._region(path).write, chain, start, values), values.nbytes)


def _blocks(chains: Sequence[ChainKey]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the chains as blocks of restrictions and chains that can be written at once: one where all form one."""
    of_restriction: dict[int, list[int]] = {}
    for restriction, chain in chains:
        of_restriction.setdefault(restriction, []).append(chain)
    blocks: dict[tuple[int, ...], list[int]] = {}
    for restriction, numbers in of_restriction.items():
        blocks.setdefault(tuple(sorted(numbers)), []).append(restriction)
    for members, restrictions in blocks.items():
        yield np.array(restrictions), np.array(members)
