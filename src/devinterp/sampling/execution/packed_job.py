"""What other processes are sent once, of whatever kind of work: a job that makes a worker, which does tasks."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import cloudpickle

from devinterp.errors import InvalidInputError
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


def pickled(job: Any, parts: str = "the job") -> bytes:
    """Return a job, an object with a method ``start``, as bytes that another process can read.

    Parameters
    ----------
    job : object
        The job.
    parts : str, default: "the job"
        What of the user's it holds, for the message.

    Raises
    ------
    InvalidInputError
        If something in it cannot be sent.
    """
    buffer = io.BytesIO()
    try:
        _Pickler(buffer).dump(job)
    except Exception as error:  # whatever the parts raise
        raise InvalidInputError(
            f"{parts} cannot be sent to other processes: {type(error).__name__}: {error}. Sample without `workers` and "
            "`client`, or define them so that they can be pickled."
        ) from error
    return buffer.getvalue()


def started(packed: bytes) -> SomeWorker:
    """Return the worker of a job that was packed."""
    worker: SomeWorker = cloudpickle.loads(packed).start()
    return worker


_Cached = type(lru_cache(len))


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # untyped
    """Sends functions with a cache (`functools.cache`) of scripts and plans whole, as cloudpickle does plain functions."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, _Cached) and _is_sent_whole(obj):
            return _with_empty_cache, (obj.__wrapped__, obj.cache_parameters())
        return super().reducer_override(obj)


def _is_sent_whole(function: Any) -> bool:
    """Say whether another process cannot import a function: it is of a script, of a module that is sent, or within another."""
    whole = {"__main__", *cloudpickle.list_registry_pickle_by_value()}
    return function.__module__ in whole or "<locals>" in getattr(function, "__qualname__", "<locals>")


def _with_empty_cache(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return lru_cache(**parameters)(function)
