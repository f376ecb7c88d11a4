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
from devinterp.sampling.execute import Durability, Watch, run_tasks
from devinterp.sampling.problem import Problem
from devinterp.sampling.progress import Update
from devinterp.sampling.stopping import Stop
from devinterp.sampling.tasks import Task, refreshed
from devinterp.sampling.weights import sheltered
from devinterp.store import lock
from devinterp.store.commit import commit

#: Seconds between looks at the lock, and between updates of one chain.
_LOOK, _TELL = 2.0, 0.2
#: In the progress of the lock: the driver asks its workers to save and end.
STOP = "stop"


@dataclass(frozen=True)
class Job:
    """What every worker of a run needs, sent once.

    Parameters
    ----------
    problem : Problem
        The run, in the host's memory.
    store : zarr.abc.store.Store
        Where to write.
    guard : Durability
        How states are saved.
    token : str
        Of the lock under which the run is written.
    device : str
        Kind of device to sample on.
    num_threads : int
        Threads of torch: sums are split among them, and how decides the last bits.
    """

    problem: Problem
    store: Store
    guard: Durability
    token: str
    device: str
    num_threads: int


def pack(problem: Problem, store: Store, guard: Durability, token: str) -> bytes:
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
    device = problem.device.type
    if device != "cpu":
        problem = copy.deepcopy(problem)
        problem.model.cpu()
        problem = moved(problem, "cpu")
    job = Job(problem, store, guard, token, device, torch.get_num_threads())
    try:
        return bytes(cloudpickle.dumps(job))
    except Exception as error:  # whatever the parts raise
        raise InvalidInputError(
            f"the model, `loss_fn` or store cannot be sent to other processes: {type(error).__name__}: {error}. Sample without "
            "`workers` and `client`, or define them so that they can be pickled."
        ) from error


def unpack(packed: bytes) -> Job:
    """Return the job, its problem on this process's device."""
    job: Job = cloudpickle.loads(packed)
    if job.device != "cpu":
        job.problem.model.to(job.device)
        job = replace(job, problem=moved(job.problem, job.device))
    return job


def moved(problem: Problem, device: str) -> Problem:
    """Return a problem with its data on a device; its model must be there already."""
    where = torch.device(device)
    watched = {name: replace(o, rows=o.rows.to(where)) for name, o in problem.observables.items()}
    return replace(problem, rows=problem.rows.to(where), observables=watched)


def work(job: Job, task: Task, tell: Callable[[Update], None], stop: Stop) -> None:
    """Do one task of a job in this process."""
    problem = job.problem
    watch = Watch(_sparingly(tell, problem.settings.num_steps), _Held(job, stop).check, stop)
    commit(job.store, "before a task")  # what other workers wrote is seen from here on
    with _threads(job.num_threads), sheltered(problem.model, job.device, seed=problem.settings.init_seed):
        run_tasks(problem, [refreshed(task, job.store)], job.store, job.guard, watch)


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
