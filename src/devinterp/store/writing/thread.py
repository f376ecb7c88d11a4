"""One thread that does what writes into a store, in order, and tries again what may pass."""

from __future__ import annotations

import errno
import queue
import threading
import time
from collections.abc import Callable

from devinterp.errors import StoreError

#: Waiting does not help against these.
_LASTING = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
#: Seconds between attempts: a network store that is away for a minute does not end a run.
BACKOFF = (0.1, 0.5, 2.0, 5.0, 15.0, 30.0)


class WriterThread:
    """Runs jobs one after the other in the background, and keeps the first error.

    Parameters
    ----------
    max_pending : int
        Number of jobs that may wait; a further one makes `submit` wait.
    backoff : tuple of float, optional
        Seconds to wait before each further attempt at a job that failed, except for want of space or permission.
    """

    def __init__(self, max_pending: int, *, backoff: tuple[float, ...] | None = None) -> None:
        self._backoff = BACKOFF if backoff is None else backoff
        self._queue: queue.Queue[Callable[[], object] | None] = queue.Queue(maxsize=max_pending)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="devinterp-writer", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], object]) -> None:
        """Hand over a job.

        Raises
        ------
        StoreError
            If an earlier one failed for good.
        """
        self.check()
        self._queue.put(job)

    def close(self) -> None:
        """Wait until all jobs are done.

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
                    attempt(job, self._backoff)
                except Exception as error:  # handed to the sampling thread, which raises it
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


def attempt(job: Callable[[], object], backoff: tuple[float, ...] | None = None) -> object:
    """Do a job; where it fails and may pass, wait and do it again."""
    for seconds in BACKOFF if backoff is None else backoff:
        try:
            return job()
        except Exception as error:
            if is_lasting(error):
                raise
        time.sleep(seconds)
    return job()


def is_lasting(error: BaseException) -> bool:
    """Say whether trying again cannot help: no space, no permission, another owner, or an error of ours."""
    if isinstance(error, StoreError):
        return True
    if isinstance(error, OSError):
        return error.errno in _LASTING
    return isinstance(error, ValueError | TypeError | LookupError | AssertionError | AttributeError | MemoryError)
