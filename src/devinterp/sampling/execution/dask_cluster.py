"""Tasks of a run on a Dask cluster."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from typing import Any

from devinterp.sampling.execution.job import Job, unpack, work
from devinterp.sampling.execution.progress import Update
from devinterp.sampling.execution.run_tasks import RunMonitor
from devinterp.sampling.execution.signals import Stop
from devinterp.sampling.execution.tasks import Task

#: Seconds that workers are given to save their chains when the run is to end.
_GRACE = 120.0
#: Workers hold one job each; a model is moved by one task at a time.
_JOBS: dict[str, Job] = {}
_ONE_AT_A_TIME = threading.Lock()


def run_on_cluster(
    client: Any, packed: bytes, token: str, tasks: Iterable[Task], watch: RunMonitor, ask_to_stop: Callable[[], None]
) -> None:
    """Do tasks on a cluster, at most one on each worker; a task whose worker dies goes on on another.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.
    packed : bytes
        The job, from `devinterp.sampling.execution.job.pack`; sent to each worker once.
    token : str
        Names the job.
    tasks : iterable of Task
        What to do.
    watch : RunMonitor
        Who watches.
    ask_to_stop : callable
        Lets the workers know that the run is to end.

    Raises
    ------
    Exception
        What a task raised; the others are asked to save and end first.
    """
    topic = f"devinterp-{token}"
    client.subscribe_topic(topic, lambda event: watch.show(Update(**event[1])))
    job = client.scatter(packed, broadcast=True, hash=False)
    waiting, running = deque(tasks), set[Any]()
    try:
        while waiting or running:
            while waiting and len(running) < max(1, len(client.ncores())):
                running.add(client.submit(_do, job, token, topic, waiting.popleft(), pure=False, retries=2))
            watch.check()
            watch.stop.raise_if_requested(watch.how_to_go_on)
            for future in [each for each in running if each.done()]:
                running.remove(future)
                future.result()
            time.sleep(0.05)
    except BaseException:
        ask_to_stop()
        _drain(running)
        raise
    finally:
        client.unsubscribe_topic(topic)
        client.cancel([*running, job])


def _drain(running: set[Any]) -> None:
    end = time.monotonic() + _GRACE
    while time.monotonic() < end and not all(future.done() for future in running):
        time.sleep(0.1)


def _do(packed: bytes, token: str, topic: str, task: Task) -> None:
    """Do one task, on a worker."""
    from distributed import get_worker

    worker = get_worker()
    with _ONE_AT_A_TIME:
        if token not in _JOBS:
            _JOBS.clear()
            _JOBS[token] = unpack(packed)
        tell = partial(_tell, worker, topic)
        try:
            work(_JOBS[token], task, tell, Stop())
        except (SystemExit, KeyboardInterrupt):
            return  # asked to end; its state is saved


def _tell(worker: Any, topic: str, update: Update) -> None:
    worker.log_event(topic, asdict(update))
