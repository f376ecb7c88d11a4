"""A run's tasks in other processes: what they are sent, and what they do with it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import cloudpickle
import torch
from zarr.abc.store import Store
from zarr.storage import FsspecStore, MemoryStore

from devinterp.errors import InvalidInputError, StoreError
from devinterp.sampling.execution.progress import Update
from devinterp.sampling.execution.run_tasks import CheckpointOptions, RunMonitor, run_tasks
from devinterp.sampling.execution.signals import Stop
from devinterp.sampling.execution.tasks import Task, refreshed
from devinterp.sampling.model_guard import sheltered
from devinterp.sampling.spec import RunSpec
from devinterp.store import lock
from devinterp.store.writing.transactions import commit

#: Seconds between looks at the lock, and between updates of one chain.
_LOOK, _TELL = 2.0, 0.2
#: In the progress of the lock: the driver asks its workers to save and end.
STOP = "stop"


@dataclass(frozen=True)
class Job:
    """What every worker of a run needs, sent once.

    Parameters
    ----------
    spec : RunSpec
        The run, in the host's memory.
    store : zarr.abc.store.Store
        Where to write.
    guard : CheckpointOptions
        How states are saved.
    token : str
        Of the lock under which the run is written.
    device : str
        Kind of device to sample on.
    num_threads : int
        Threads of torch: sums are split among them, and how decides the last bits.
    """

    spec: RunSpec
    store: Store
    guard: CheckpointOptions
    token: str
    device: str
    num_threads: int


def pack(spec: RunSpec, store: Store, guard: CheckpointOptions, token: str) -> bytes:
    """Return a job as bytes; whatever a user's notebook defines travels with it.

    Raises
    ------
    InvalidInputError
        If the store lives in this process's memory, or something cannot be sent.
    """
    if isinstance(store, MemoryStore) or (isinstance(store, FsspecStore) and "memory" in store.fs.protocol):
        raise InvalidInputError(
            "other processes cannot write into this one's memory: give a path or URL as `output_path`."
        )
    device = spec.device.type
    if device != "cpu":
        spec = copy.deepcopy(spec)
        spec.model.cpu()
        spec = moved(spec, "cpu")
    job = Job(spec, store, guard, token, device, torch.get_num_threads())
    try:
        return bytes(cloudpickle.dumps(job))
    except Exception as error:  # whatever the parts raise
        raise InvalidInputError(
            f"the model, `loss_fn` or store cannot be sent to other processes: {type(error).__name__}: {error}. Sample without "
            "`workers` and `client`, or define them so that they can be pickled."
        ) from error


def unpack(packed: bytes) -> Job:
    """Return the job, its spec on this process's device."""
    job: Job = cloudpickle.loads(packed)
    if job.device != "cpu":
        job.spec.model.to(job.device)
        job = replace(job, spec=moved(job.spec, job.device))
    return job


def moved(spec: RunSpec, device: str) -> RunSpec:
    """Return a spec with its data on a device; its model must be there already."""
    where = torch.device(device)
    watched = {name: replace(o, rows=o.rows.to(where)) for name, o in spec.observables.items()}
    return replace(spec, rows=spec.rows.to(where), observables=watched)


def work(job: Job, task: Task, tell: Callable[[Update], None], stop: Stop) -> None:
    """Do one task of a job in this process."""
    spec = job.spec
    watch = RunMonitor(_sparingly(tell, spec.settings.num_steps), _Held(job, stop).check, stop)
    commit(job.store, "before a task")  # what other workers wrote is seen from here on
    with _threads(job.num_threads), sheltered(spec.model, job.device, seed=spec.settings.init_seed):
        run_tasks(spec, [refreshed(task, job.store)], job.store, job.guard, watch)


class _Held:
    """Sees to it that a worker writes only as long as its driver holds the store."""

    def __init__(self, job: Job, stop: Stop) -> None:
        self._job, self._stop, self._next = job, stop, 0.0

    def check(self) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LOOK
        try:
            found = lock.holder(self._job.store)
        except Exception:  # away for a moment; the writer finds out if it stays away
            return
        if found is None or found.token != self._job.token:
            raise StoreError("the process that led this run is gone, or lost the store: run again.")
        if found.progress.get(STOP):
            self._stop.requested.set()


def _sparingly(tell: Callable[[Update], None], num_steps: int) -> Callable[[Update], None]:
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
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
