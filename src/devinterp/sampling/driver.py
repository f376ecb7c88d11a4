"""Run a prepared spec: create or find its store, sample what is missing, and open what was written."""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore, MemoryStore

from devinterp import schema
from devinterp.errors import DivergenceWarning, InvalidInputError
from devinterp.sampling.chains.checkpointing import check_share
from devinterp.sampling.chains.initial_loss import initial_loss
from devinterp.sampling.execution import dask_cluster as cluster
from devinterp.sampling.execution import job as remote
from devinterp.sampling.execution import local_processes as workers
from devinterp.sampling.execution.progress import Display, display
from devinterp.sampling.execution.run_tasks import CheckpointOptions, RunMonitor, run_tasks
from devinterp.sampling.execution.signals import Stopped, listening
from devinterp.sampling.execution.tasks import Key, Task, pending, tasks_of
from devinterp.sampling.run_store import fingerprint as identity
from devinterp.sampling.run_store.array_layout import layout
from devinterp.sampling.run_store.prepare_store import RequestedRun, is_finished, prepare_store
from devinterp.sampling.spec import RunSpec
from devinterp.store import keys as raw
from devinterp.store.arrays.create import is_empty
from devinterp.store.location import StoreLike, describe, resolve
from devinterp.store.lock import Lock
from devinterp.store.reading.open import open as open_store
from devinterp.store.reading.status import read_attrs, read_status
from devinterp.store.reading.validate import inspect
from devinterp.store.writing import checkpoints as states
from devinterp.store.writing.transactions import commit


@dataclass(frozen=True)
class Options:
    """How a run is carried out: nothing here changes its numbers.

    Parameters
    ----------
    output_path : str, path or zarr store, optional
        Where the run is written; None keeps it in memory.
    storage_options : mapping, optional
        For fsspec, when `output_path` is a URL.
    progress : bool or None
        Whether to show bars; None: in a terminal or a notebook.
    chains : {"auto", "sequential", "vectorized"}
        Whether chains run one after the other or as one computation.
    guard : CheckpointOptions
        How states are saved.
    notes : mapping
        JSON-able values to record in the provenance.
    workers : int
        Local processes to sample in; 0: this one.
    client : distributed.Client, optional
        Of a cluster to sample on.
    repair : bool
        Whether to check the store first, and to sample again what is damaged.
    """

    output_path: StoreLike | None = None
    storage_options: Mapping[str, Any] | None = None
    progress: bool | None = None
    chains: str = "auto"
    guard: CheckpointOptions = field(default_factory=CheckpointOptions)
    notes: Mapping[str, Any] = field(default_factory=dict)
    workers: int = 0
    client: Any = None
    repair: bool = False

    def __post_init__(self) -> None:
        check_share(self.guard.share)
        if isinstance(self.workers, bool) or not isinstance(self.workers, int) or self.workers < 0:
            raise InvalidInputError(f"`workers` (={self.workers!r}) must be a whole number of processes, at least 1.")
        if self.workers and self.client is not None:
            raise InvalidInputError("`workers` and `client` both say where to sample: pass only one.")


def run(spec: RunSpec, loss_dims: tuple[str, ...], options: Options) -> xr.DataTree:
    """Sample every chain of a spec that its store does not hold yet.

    Parameters
    ----------
    spec : RunSpec
        From `devinterp.sampling.prepare.prepare`.
    loss_dims : tuple of str
        Names of the dims of one sample's loss.
    options : Options
        The rest.

    Returns
    -------
    xarray.DataTree
        Lazy when there is an `output_path`, else in memory.

    Raises
    ------
    StoreMismatchError
        If another run is at `output_path`; the message says what differs.
    StoreError
        If it cannot be written, or another process is writing it.
    """
    wanted = RequestedRun(spec, loss_dims, identity.fingerprints(spec))
    with _stored(options) as (store, where):
        in_memory = options.output_path is None
        fresh = None
        if is_empty(store):
            # Measured before the store is touched: a run that is refused leaves nothing behind.
            fresh = layout(spec, loss_dims, initial_loss(spec))
        else:
            inspect(store)
        if fresh is not None or options.repair or not is_finished(store, where, wanted):
            with nullcontext() if isinstance(store, MemoryStore) and in_memory else Lock(store, where) as lock:
                spec = prepare_store(store, where, wanted, fresh, notes=options.notes, repair=options.repair)
                _sample(spec, store, options, lock)
        warn_of_diverged(store)
        return open_store(store, chunks=None).load() if in_memory else open_store(store)


@contextmanager
def _stored(options: Options) -> Iterator[tuple[Store, str]]:
    """Give the store that a run is written to, and its name."""
    if options.output_path is not None:
        yield resolve(options.output_path, storage_options=options.storage_options), describe(options.output_path)
    elif options.client is not None:
        raise InvalidInputError("with `client`, `output_path` must be a path or URL that all its workers can write to.")
    elif options.workers:
        # Other processes cannot write into this one's memory.
        with tempfile.TemporaryDirectory(prefix="devinterp-") as path:
            yield LocalStore(path), "memory"
    else:
        yield MemoryStore(), "memory"


def _sample(spec: RunSpec, store: Store, options: Options, lock: Lock | None) -> None:
    """Sample the chains of a run that are not at their end."""
    left = pending(store, spec.settings.num_steps)
    if not left:
        return
    init_loss = float(np.nanmean(np.asarray(zarr.open_array(store, path=f"{schema.TRACE}/init_loss", mode="r")[...])))
    names = list(spec.restrictions)
    how = "" if options.output_path is None else f"the same call goes on with {describe(options.output_path)}"
    with display(options.progress, spec.settings, init_loss, _labels(names)) as bars, listening() as stop:
        if lock is not None:
            lock.report(bars.heartbeat)
        watch = RunMonitor(bars.show, lock.check if lock is not None else lambda: None, stop, how)
        try:
            _run_all(spec, store, options, left, watch, bars, lock)
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            raise
    if lock is not None:
        lock.verify()
    commit(store, "chains of all workers")  # from here on this process, too, sees what they wrote
    _record_end(spec, store)
    commit(store, "run ended")
    if not options.guard.keep_state:
        states.remove_all(store)


def _run_all(
    spec: RunSpec,
    store: Store,
    options: Options,
    left: Mapping[Key, int],
    watch: RunMonitor,
    bars: Display,
    lock: Lock | None,
) -> None:
    """Do all tasks, here or in other processes."""

    def announced() -> Iterator[list[Task]]:
        for tasks in tasks_of(spec, store, left, options.chains):
            for task in tasks:
                for chain in task.live:
                    bars.begin(task.restriction, chain, step=task.recorded)
            yield tasks

    if lock is None or not (options.workers or options.client is not None):
        guard = options.guard if lock is not None else replace(options.guard, in_memory=True)
        for tasks in announced():
            run_tasks(spec, tasks, store, guard, watch)
        return
    # Every choice is made here, so that it does not depend on the workers.
    every = [task for tasks in announced() for task in tasks]
    token = lock.owner.token
    packed = remote.pack(spec, store, options.guard, token)
    if options.client is None:
        workers.run_in_processes(packed, every, options.workers, watch)
        return

    def ask_to_stop() -> None:
        lock.report(lambda: {**bars.heartbeat(), remote.STOP: True})
        lock.beat()

    cluster.run_on_cluster(options.client, packed, token, every, watch, ask_to_stop)


def _record_end(spec: RunSpec, store: Store) -> None:
    """Complete the provenance: what was chosen on the way, and when it ended."""
    provenance = json.loads(read_attrs(store)["provenance"])
    provenance["paths"] = {**provenance.get("paths", {}), **spec.paths}
    provenance["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
    raw.update_attrs(store, "", {"provenance": json.dumps(provenance)})


def warn_of_diverged(store: Store) -> None:
    """Warn of every chain that diverged, so that nobody learns it from an analysis first."""
    status = read_status(store)
    lines = [
        f"restriction {r}, chain {c}: {status.error[r, c]}"
        for r, c in np.ndindex(status.state.shape)
        if status.state[r, c] == schema.DIVERGED
    ]
    if lines:
        warnings.warn(
            f"{len(lines)} of {status.state.size} chains diverged; analyses refuse them unless told `chains='finished'`:\n  "
            + "\n  ".join(lines),
            DivergenceWarning,
            stacklevel=4,
        )


def _labels(names: Sequence[str]) -> Callable[[int, int], str]:
    def label(restriction: int, chain: int) -> str:
        return f"chain {chain}" if len(names) == 1 else f"{names[restriction]} chain {chain}"

    return label
