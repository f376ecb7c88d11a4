"""Work in threads that tells how far it is, is shared by whoever waits for it, and ends when nobody does."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import dask.threaded
from dask.callbacks import Callback

#: Seconds between two looks at how far a job is.
_INTERVAL = 0.05


class Stopped(Exception):  # noqa: N818  # nothing went wrong
    """Nobody waits for this job any more."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is: a sentence for people, and a share from 0 to 1."""

    text: str
    share: float


class Job:
    """One piece of work.

    Parameters
    ----------
    yields_to : Jobs, optional
        Others, while which are at work this pauses.
    told : callable, optional
        Is given every `Progress`.
    """

    def __init__(self, yields_to: Jobs | None = None, told: Callable[[Progress], None] | None = None) -> None:
        self.future: Future[Any] = Future()
        self._yields_to, self._told = yields_to, told
        self.progress = Progress("waiting for its turn", 0.0)
        self.num_waiting = 0
        self.pieces: list[Any] = []
        self._is_stopped = threading.Event()

    def tell(self, text: str, share: float) -> None:
        """Say how far it is; pauses while something more urgent is at work, and raises `Stopped` where nobody waits."""
        while self._yields_to is not None and self._yields_to.is_busy and not self._is_stopped.wait(_INTERVAL):
            pass
        if self._is_stopped.is_set():
            raise Stopped
        self.progress = Progress(text, share)
        if self._told is not None:
            self._told(self.progress)

    def stop(self) -> None:
        """Let the job end at the next time that it tells how far it is."""
        self._is_stopped.set()


_CURRENT: contextvars.ContextVar[Job | None] = contextvars.ContextVar("job", default=None)


def current_job() -> Job | None:
    """Return the job that this thread works on; None outside of any."""
    return _CURRENT.get()


def scheduler(graph: Any, keys: Any, **options: Any) -> Any:
    """Compute a graph of Dask in threads; within a job it tells how far it is, and stops with the job."""
    job = current_job()
    # Calls before and after all tasks, and before each, are left out.
    callbacks = () if job is None else ((None, None, None, _watch(job), None),)
    return dask.threaded.get(graph, keys, callbacks=callbacks, **options)


@contextmanager
def at_work(job: Job) -> Iterator[None]:
    """Let a job tell how far it is, and stop, whatever this thread computes with Dask in this process.

    What other threads compute meanwhile, or a cluster, is left alone.
    """
    watch = _watch(job)

    def after(*state: Any) -> None:  # Dask calls it for what other threads compute, too
        if current_job() is job:
            watch(*state)

    token = _CURRENT.set(job)
    try:
        with Callback(posttask=after):
            yield
    finally:
        _CURRENT.reset(token)


def _watch(job: Job) -> Callable[..., None]:
    def after(key: Any, result: Any, graph: Any, state: Any, worker: Any) -> None:
        done = len(state["finished"])
        total = done + sum(len(state[name]) for name in ("ready", "waiting", "running"))
        job.tell(f"{done:,} of {total:,} parts", done / max(total, 1))

    return after


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
        _CURRENT.set(job)
        try:
            job.tell("at work", 0.0)
            job.future.set_result(work(job))
        except BaseException as error:
            job.future.set_exception(error)
        finally:
            _CURRENT.set(None)

    def close(self) -> None:
        """Stop all work."""
        for job in list(self._jobs.values()):
            job.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)
