"""One piece of work that tells how far it is, and ends when nobody waits for it any more."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import dask.threaded
from dask.base import get_scheduler

#: Seconds between two looks at whether something more urgent is at work.
_INTERVAL = 0.05


class Urgent(Protocol):
    """What a job makes way for."""

    @property
    def is_busy(self) -> bool:
        """Say whether any of it is not done."""
        ...


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
    yields_to : Urgent, optional
        While which is at work this pauses.
    told : callable, optional
        Is given every `Progress`.
    """

    def __init__(self, yields_to: Urgent | None = None, told: Callable[[Progress], None] | None = None) -> None:
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


@contextmanager
def at_work(job: Job) -> Iterator[None]:
    """Let this thread work on a job until the block ends."""
    token = _CURRENT.set(job)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def scheduler(graph: Any, keys: Any, **options: Any) -> Any:
    """Compute a graph of Dask in threads; within a job it tells how far it is, and stops with the job."""
    job = current_job()
    # Calls before and after all tasks, and before each, are left out.
    callbacks = () if job is None else ((None, None, None, _watch(job), None),)
    return dask.threaded.get(graph, keys, callbacks=callbacks, **options)


def scheduler_here() -> Callable[..., Any] | None:
    """Return what computes within a job, unless another scheduler is set, such as a cluster's; None is Dask's own choice."""
    return scheduler if current_job() is not None and get_scheduler() is None else None


def _watch(job: Job) -> Callable[..., None]:
    def after(key: Any, result: Any, graph: Any, state: Any, worker: Any) -> None:
        done = len(state["finished"])
        total = done + sum(len(state[name]) for name in ("ready", "waiting", "running"))
        job.tell(f"{done:,} of {total:,} parts", done / max(total, 1))

    return after
