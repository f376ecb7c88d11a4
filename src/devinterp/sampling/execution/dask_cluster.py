"""Tasks of a run on a Dask cluster."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from typing import Any

from devinterp.sampling.execution.monitor import RunMonitor
from devinterp.sampling.execution.packed_job import SomeTask, SomeWorker, started
from devinterp.sampling.execution.progress import Update
from devinterp.sampling.execution.signals import Stop

#: Seconds that workers are given to save their chains when the run is to end.
_GRACE = 120.0
#: Where an event has what a worker tells: Dask adds entries of its own.
_UPDATE = "update"
#: Each process holds one job; the weights of its model are changed by one task at a time.
_WORKERS: dict[str, SomeWorker] = {}
_ONE_AT_A_TIME = threading.Lock()


def run_on_cluster(
    client: Any,
    packed: bytes,
    token: str,
    tasks: Iterable[SomeTask],
    monitor: RunMonitor,
    ask_to_stop: Callable[[], None],
) -> dict[str, str]:
    """Run tasks on a cluster, at most one on each worker; a task whose worker dies goes on on another.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.
    packed : bytes
        The job, pickled (`devinterp.sampling.execution.packed_job.started`); sent to each worker once.
    token : str
        Names the job.
    tasks : iterable of SomeTask
        What to do.
    monitor : RunMonitor
        Is told of progress, and says when to stop.
    ask_to_stop : callable
        Lets the workers know that the run is to end.

    Returns
    -------
    dict of str to str
        Which ways of computing the workers chose.

    Raises
    ------
    Exception
        What a task raised; the others are asked to save and end first.
    """
    topic = f"devinterp-{token}"
    client.subscribe_topic(topic, lambda event: monitor.show(Update(**event[1][_UPDATE])))
    job = client.scatter(packed, broadcast=True, hash=False)
    waiting, running, choices = deque(tasks), set[Any](), dict[str, str]()
    try:
        while waiting or running:
            while waiting and len(running) < max(1, len(client.ncores())):
                running.add(client.submit(_run_task, job, token, topic, waiting.popleft(), pure=False, retries=2))
            monitor.check_owner()
            monitor.raise_if_stopped()
            for future in [each for each in running if each.done()]:
                running.remove(future)
                chosen = future.result()
                choices |= chosen
                monitor.tell(chosen)
            time.sleep(0.05)
    except BaseException:
        ask_to_stop()
        _drain(running)
        raise
    else:
        return choices
    finally:
        client.unsubscribe_topic(topic)
        client.cancel([*running, job])


def _drain(running: set[Any]) -> None:
    end = time.monotonic() + _GRACE
    while time.monotonic() < end and not all(future.done() for future in running):
        time.sleep(0.1)


def _run_task(packed: bytes, token: str, topic: str, task: SomeTask) -> dict[str, str]:
    """Run one task, on a worker of the cluster."""
    from distributed import get_worker

    worker = get_worker()
    with _ONE_AT_A_TIME:
        if token not in _WORKERS:
            _WORKERS.clear()
            _WORKERS[token] = started(packed)
        tell = partial(_tell, worker, topic)
        try:
            return _WORKERS[token].run(task, tell, Stop())
        except (SystemExit, KeyboardInterrupt):
            return {}  # asked to end; its chains are saved


def _tell(worker: Any, topic: str, update: Update) -> None:
    worker.log_event(topic, {_UPDATE: asdict(update)})
