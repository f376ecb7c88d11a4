"""Background thread that runs store writes in order and retries transient failures."""

from __future__ import annotations

import errno
import queue
import threading
import time
from collections.abc import Callable

from devinterp.errors import StoreError

#: Errors of the operating system that a retry does not cure.
_LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
#: Seconds between attempts: a network store that cannot be reached for a minute does not end a run.
BACKOFF = (0.1, 0.5, 2.0, 5.0, 15.0, 30.0)


class WriterThread:
    """Runs jobs one after the other in a background thread; after the first that failed for good, none.

    Parameters
    ----------
    max_bytes : int
        How much data jobs that are not done may hold; with more, `submit` blocks. A larger job waits until no other holds any.
    """

    def __init__(self, max_bytes: int) -> None:
        self._queue: queue.SimpleQueue[tuple[Callable[[], object], int] | None] = queue.SimpleQueue()
        self._max_bytes, self._pending, self._room = max_bytes, 0, threading.Condition()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="devinterp-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], object], nbytes: int = 0) -> None:
        """Queue a job.

        Parameters
        ----------
        job : callable
            What to do.
        nbytes : int, default: 0
            How much data it holds until it is done.

        Raises
        ------
        StoreError
            If an earlier one failed for good.
        """
        self.check()
        with self._room:
            self._room.wait_for(lambda: not self._pending or self._pending + nbytes <= self._max_bytes)
            self._pending += nbytes
        self._queue.put((job, nbytes))

    def close(self) -> None:
        """Wait until all queued jobs are done, and end the thread.

        Raises
        ------
        StoreError
            If one failed for good.
        """
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()
        self.check()

    def _run(self) -> None:
        while (queued := self._queue.get()) is not None:
            job, nbytes = queued
            if self._error is None:
                try:
                    _run_with_retries(job)
                except Exception as error:  # raised in the sampling thread, by `check`
                    self._error = error
            del queued, job  # and with it its data
            with self._room:
                self._pending -= nbytes
                self._room.notify_all()

    def check(self) -> None:
        """Raise `StoreError` if a job failed for good."""
        if isinstance(self._error, StoreError):
            raise self._error
        if self._error is not None:
            kind = type(self._error).__name__
            raise StoreError(
                f"writing to the store failed: {kind}: {self._error}. What was written before is kept; free space or restore "
                "access, then run again."
            ) from self._error


def _run_with_retries(job: Callable[[], object]) -> None:
    for seconds in BACKOFF:
        try:
            job()
            return
        except Exception as error:
            if _is_lasting(error):
                raise
        time.sleep(seconds)
    job()


def _is_lasting(error: BaseException) -> bool:
    """Say whether a retry cannot help: no space, no permission, a lost lock, or a programming error."""
    if isinstance(error, StoreError):
        return True
    if isinstance(error, OSError):
        return error.errno in _LASTING
    return isinstance(error, ValueError | TypeError | LookupError | AssertionError | AttributeError | MemoryError)
