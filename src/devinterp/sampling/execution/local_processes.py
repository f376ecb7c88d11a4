"""Tasks of a run in local processes."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

import torch

from devinterp.errors import DevinterpError
from devinterp.sampling.execution.monitor import RunMonitor
from devinterp.sampling.execution.packed_job import SomeTask
from devinterp.sampling.execution.worker_main import receive, send

#: How often a task may lose its process before the run gives up: what kills it is likely the task itself.
MAX_DEATHS = 5
#: Seconds that workers are given to save their chains when the run is to end.
_GRACE = 120.0


class _Worker:
    """One process, and a thread that listens to it."""

    def __init__(self, number: int, packed: bytes, events: queue.Queue[tuple[_Worker, str, Any]]) -> None:
        self.task: SomeTask | None = None
        self.is_ready = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", "devinterp.sampling.execution.worker_main"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=_environment(number),
            # Ctrl-C in a terminal is for the driver, which asks its workers to end.
            start_new_session=True,
        )
        self.pid = self._process.pid
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = cast("Any", self._process.stdin), cast("Any", self._process.stdout)
        self._events = events
        threading.Thread(target=self._listen, args=(packed,), name="devinterp-worker", daemon=True).start()

    def run(self, task: SomeTask) -> None:
        self.task = task
        with suppress(OSError):  # it has died: the listening thread says so
            send(self._in, task)

    def end(self) -> None:
        # Closing flushes what the other side may no longer take; only a second one then closes.
        with suppress(OSError):
            self._in.close()
        with suppress(OSError):
            self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> None:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()

    def _listen(self, packed: bytes) -> None:
        try:
            send(self._in, (sys.path, packed))
            while True:
                kind, content = receive(self._out)
                self._events.put((self, kind, content))
        except (EOFError, OSError, ValueError):
            self._events.put((self, "died", None))


def run_in_processes(packed: bytes, tasks: Iterable[SomeTask], num_workers: int, monitor: RunMonitor) -> dict[str, str]:
    """Run tasks in local processes; a task whose process is killed goes on in another.

    Parameters
    ----------
    packed : bytes
        The job, pickled (`devinterp.sampling.execution.packed_job.started`).
    tasks : iterable of SomeTask
        What to do.
    num_workers : int
        Processes.
    monitor : RunMonitor
        Is told of progress, and says when to stop.

    Returns
    -------
    dict of str to str
        Which ways of computing the workers chose.

    Raises
    ------
    Exception
        What a task raised; the others are saved and ended first.
    """
    waiting, deaths, choices = deque(tasks), dict[SomeTask | None, int](), dict[str, str]()
    num_workers = min(num_workers, len(waiting))
    with _pool(packed, num_workers) as (workers, events, start):
        remaining = len(waiting)
        while remaining:
            monitor.check_owner()
            monitor.raise_if_stopped()
            try:
                worker, kind, content = events.get(timeout=0.2)
            except queue.Empty:
                continue
            if kind == "update":
                monitor.show(content)
            elif kind == "failed":
                raise content
            elif kind == "unreadable":
                raise WorkerError(
                    f"a worker process cannot read what it is sent: {content}. Define functions and classes in the script or "
                    "notebook itself, or in a module that other processes can import; or sample without `workers`."
                )
            elif kind in ("died", "stopped"):
                workers.remove(worker)
                worker.end()
                worker.wait(_GRACE)
                if worker.task is not None:
                    _count_death(worker.task, deaths)
                    waiting.appendleft(worker.task)
                elif not worker.is_ready:
                    _count_death(None, deaths)
                start()
            else:
                if kind == "done":
                    remaining -= 1
                    choices |= content
                    monitor.tell(content)
                worker.task, worker.is_ready = None, True
                if waiting:
                    worker.run(waiting.popleft())
    return choices


def _count_death(task: SomeTask | None, deaths: dict[SomeTask | None, int]) -> None:
    """Count a process that died at a task, or before it was ready for one."""
    deaths[task] = deaths.get(task, 0) + 1
    if deaths[task] > MAX_DEATHS:
        where = "their start" if task is None else task.description
        raise WorkerError(
            f"{deaths[task]} processes died at {where}: probably they ran out of memory. Use fewer workers or a smaller batch, "
            "then run again."
        )


class WorkerError(DevinterpError, RuntimeError):
    """Worker processes died again and again."""


_Pool = tuple[list[_Worker], "queue.Queue[tuple[_Worker, str, Any]]", Callable[[], None]]


@contextmanager
def _pool(packed: bytes, number: int) -> Iterator[_Pool]:
    """Give workers, the queue of what they say, and what starts another; end them all afterwards."""
    events: queue.Queue[tuple[_Worker, str, Any]] = queue.Queue()
    workers: list[_Worker] = []
    numbers = iter(range(10**9))

    def start() -> None:
        workers.append(_Worker(next(numbers) % max(1, number), packed, events))

    try:
        for _ in range(number):
            start()
        yield workers, events, start
    finally:
        for worker in workers:
            worker.end()
        for worker in workers:
            worker.wait(_GRACE)


def _environment(number: int) -> dict[str, str]:
    """Return the environment of a worker: of several GPUs each sees one."""
    # Each has as many threads as the driver, in all more than there are cores. By default one that waits for the others keeps
    # its core from them, which makes small operations twenty times slower.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    if torch.cuda.is_available() and torch.cuda.device_count() > 1:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = given.split(",") if given else [str(n) for n in range(torch.cuda.device_count())]
        environment["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
    return environment
