"""What other processes are sent once, of whatever kind of work: a job that makes a worker, which does tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import cloudpickle

from devinterp.sampling.execution.progress import Update
from devinterp.sampling.execution.signals import Stop


@runtime_checkable
class SomeTask(Protocol):
    """A part of a job, hashable."""

    @property
    def description(self) -> str:
        """What a person calls it."""
        ...


@runtime_checkable
class SomeWorker(Protocol):
    """One process's share of a job."""

    def run(self, task: Any, tell: Callable[[Update], None], stop: Stop) -> dict[str, str]:
        """Do one task, and return what came of it."""
        ...


def started(packed: bytes) -> SomeWorker:
    """Return the worker of a job that was pickled: an object with a method ``start``."""
    worker: SomeWorker = cloudpickle.loads(packed).start()
    return worker
