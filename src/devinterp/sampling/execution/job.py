"""A run's tasks in other processes: what these are sent, and what they do with it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import final

import torch

from devinterp.errors import InvalidInputError, StoreError
from devinterp.sampling.execution.monitor import RunMonitor
from devinterp.sampling.execution.packed_job import pickled
from devinterp.sampling.execution.progress import Update
from devinterp.sampling.execution.run_tasks import CheckpointOptions, TaskRunner
from devinterp.sampling.execution.signals import Stop
from devinterp.sampling.execution.tasks import Task, refreshed
from devinterp.sampling.model_guard import sheltered
from devinterp.sampling.spec import RunSpec
from devinterp.store.run_store import RunStore

#: Seconds between looks at the lock, and between updates of one chain.
_LOOK, _TELL = 2.0, 0.2
#: In the progress of the lock: the driver asks its workers to save and end.
STOP = "stop"


@final
@dataclass(frozen=True)
class Job:
    """What every worker of a run needs, sent once.

    Parameters
    ----------
    spec : RunSpec
        The run, in the host's memory.
    store : RunStore
        Where to write.
    checkpoints : CheckpointOptions
        How chains are saved.
    token : str
        Of the lock under which the run is written.
    device : str
        Kind of device to sample on.
    num_threads : int
        Threads of torch: sums are split among them, and how decides the last bits.
    """

    spec: RunSpec
    store: RunStore
    checkpoints: CheckpointOptions
    token: str
    device: str
    num_threads: int

    def start(self) -> Worker:
        """Return the worker of this process."""
        return Worker(self)


def pack(spec: RunSpec, store: RunStore, checkpoints: CheckpointOptions, token: str) -> bytes:
    """Return a job as bytes; whatever a user's notebook defines travels with it.

    Raises
    ------
    InvalidInputError
        If the store lives in this process's memory, or something cannot be sent.
    """
    if not store.is_shareable:
        raise InvalidInputError(
            "other processes cannot write into this one's memory: give a path or URL as `output_path`."
        )
    device = spec.device.type
    if device != "cpu":
        spec = copy.deepcopy(spec)
        spec.model.cpu()
        spec = to_device(spec, "cpu")
    # A store that is only wanted in memory is a temporary directory here: a worker may die, and go on from a checkpoint.
    job = Job(spec, replace(store, in_memory=False), checkpoints, token, device, torch.get_num_threads())
    return pickled(job, "the model, `loss_fn` or store")


def to_device(spec: RunSpec, device: str) -> RunSpec:
    """Return a run with its data on a device; its model must be there already."""
    target = torch.device(device)
    observables = {name: replace(o, rows=o.rows.placed(target)) for name, o in spec.observables.items()}
    return replace(spec, rows=spec.rows.placed(target), observables=observables)


@final
class Worker:
    """One process's copy of a job, on its device, and what its tasks share.

    Parameters
    ----------
    job : Job
        What was sent.
    """

    def __init__(self, job: Job) -> None:
        if job.device != "cpu":
            job.spec.model.to(job.device)
            job = replace(job, spec=to_device(job.spec, job.device))
        self._job = job
        self._runner = TaskRunner(job.spec, job.store, job.checkpoints)

    def run(self, task: Task, tell: Callable[[Update], None], stop: Stop) -> dict[str, str]:
        """Run one task in this process; return which ways of computing were chosen, as `TaskRunner.run` does.

        Parameters
        ----------
        task : Task
            What to do.
        tell : callable
            Is given updates to send to the driver.
        stop : Stop
            Whether this process was asked to end.
        """
        job = self._job
        settings = job.spec.settings
        monitor = RunMonitor(_joined(tell, settings.num_steps), stop, _Owner(job, stop).check)
        job.store.commit("before a task")  # what other workers wrote is seen from here on
        with threads(job.num_threads), sheltered(job.spec.model, job.device, seed=settings.init_seed):
            return self._runner.run([refreshed(task, job.store)], monitor)


@final
class _Owner:
    """Sees to it that a worker writes only as long as its driver holds the store."""

    def __init__(self, job: Job, stop: Stop) -> None:
        self._job, self._stop, self._next = job, stop, 0.0

    def check(self) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LOOK
        try:
            owner = self._job.store.lock_holder()
        except Exception:  # away for a moment; the writer finds out if it stays away
            return
        if owner is None or owner.token != self._job.token:
            raise StoreError("the process that led this run is gone, or lost the store: run again.")
        if owner.progress.get(STOP):
            self._stop.requested.set()


def _joined(tell: Callable[[Update], None], num_steps: int) -> Callable[[Update], None]:
    """Join updates of each chain, so that short steps do not flood the driver."""
    waiting: dict[tuple[int, int], Update] = {}
    last: dict[tuple[int, int], float] = {}

    def show(update: Update) -> None:
        key = (update.restriction, update.chain)
        before = waiting.pop(key, None)
        if before is not None:
            update = replace(update, total=before.total + update.total, count=before.count + update.count)
        now = time.monotonic()
        if update.error is None and update.step < num_steps and now - last.get(key, 0.0) < _TELL:
            waiting[key] = update
            return
        last[key] = now
        tell(update)

    return show


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use so many threads while the block runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
