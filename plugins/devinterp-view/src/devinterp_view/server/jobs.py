"""All work of a server: done in threads, shared by whoever waits for it, ended when nobody does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from devinterp_view.job import Job, Progress, at_work

#: Seconds between two looks at how far a job is.
_INTERVAL = 0.05


class Jobs:
    """All work of a server.

    Parameters
    ----------
    num_threads : int, default: 2
        How many jobs run at a time.
    yields_to : Jobs, optional
        Others, while which are at work these pause.
    """

    def __init__(self, num_threads: int = 2, *, yields_to: Jobs | None = None) -> None:
        self._yields_to = yields_to
        self._pool = ThreadPoolExecutor(num_threads, thread_name_prefix="devinterp-view")
        self._jobs: dict[Hashable, Job] = {}

    @property
    def is_busy(self) -> bool:
        """Say whether any of these jobs is not done."""
        return any(not job.future.done() for job in list(self._jobs.values()))

    async def follow(
        self, key: Hashable, work: Callable[[Job], Any]
    ) -> AsyncIterator[Progress | list[Any] | Future[Any]]:
        """Yield how far a job is, what it handed out meanwhile, and at last its future, which is done.

        Jobs of one key that are asked for at the same time are one. Whoever leaves the loop waits no longer; with the last one
        the job stops.

        Parameters
        ----------
        key : hashable
            What is asked for.
        work : callable
            Does it, given the job.
        """
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = Job(self._yields_to)
            self._pool.submit(self._run, job, work)
        job.num_waiting += 1
        told, num_pieces = None, 0
        try:
            while not job.future.done():
                if job.progress is not told:
                    told = job.progress
                    yield told
                if len(job.pieces) > num_pieces:
                    new = job.pieces[num_pieces:]
                    num_pieces += len(new)
                    yield new
                await asyncio.sleep(_INTERVAL)
            yield job.pieces[num_pieces:]
            yield job.future
        finally:
            job.num_waiting -= 1
            if job.num_waiting == 0:
                job.stop()
                if self._jobs.get(key) is job:
                    del self._jobs[key]

    @staticmethod
    def _run(job: Job, work: Callable[[Job], Any]) -> None:
        try:
            with at_work(job):
                job.tell("at work", 0.0)
                job.future.set_result(work(job))
        except BaseException as error:
            job.future.set_exception(error)

    def close(self) -> None:
        """Stop all work."""
        for job in list(self._jobs.values()):
            job.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)
