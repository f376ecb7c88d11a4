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
    max_pending : int
        Number of jobs that may be queued; with more, `submit` blocks.
    """

    def __init__(self, max_pending: int) -> None:
        self._queue: queue.Queue[Callable[[], object] | None] = queue.Queue(maxsize=max_pending)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="devinterp-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], object]) -> None:
        """Queue a job.

        Raises
        ------
        StoreError
            If an earlier one failed for good.
        """
        self.check()
        self._queue.put(job)

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
        while (job := self._queue.get()) is not None:
            if self._error is None:
                try:
                    _run_with_retries(job)
                except Exception as error:  # raised in the sampling thread, by `check`
                    self._error = error

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
