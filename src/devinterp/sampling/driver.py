"""Carry out a checked run: create or find its store, sample what is missing, and open what was written."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeAlias, final

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.errors import DivergenceWarning, InvalidInputError
from devinterp.sampling.chains.stiff_directions import with_stiff_directions
from devinterp.sampling.engines.losses_at_w0 import LossesAtW0
from devinterp.sampling.engines.prefix_cache import SharedPrefix
from devinterp.sampling.execution import dask_cluster, job, local_processes
from devinterp.sampling.execution.monitor import RunMonitor
from devinterp.sampling.execution.notices import Notices
from devinterp.sampling.execution.progress import Display, display
from devinterp.sampling.execution.run_tasks import CheckpointOptions, TaskRunner
from devinterp.sampling.execution.signals import Stopped, listening
from devinterp.sampling.execution.start_losses import start_losses
from devinterp.sampling.execution.tasks import Task, tasks_of
from devinterp.sampling.options import RunOptions
from devinterp.sampling.run_store import fingerprint
from devinterp.sampling.run_store.array_layout import layout_of
from devinterp.sampling.run_store.compare import RequestedRun
from devinterp.sampling.run_store.prepare_store import prepare_store
from devinterp.sampling.spec import RunSpec
from devinterp.store.lock import Lock
from devinterp.store.run_store import RunStore
from devinterp.types import ChainKey

#: What to do about chains that diverged, given the store of a run that has ended.
TellDiverged: TypeAlias = Callable[[RunStore], None]


def warn_of_diverged(store: RunStore) -> None:
    """Warn of every chain that diverged, so that nobody learns it from an analysis first."""
    status = store.read_status()
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
            stacklevel=5,
        )


def run(spec: RunSpec, options: RunOptions, tell_diverged: TellDiverged = warn_of_diverged) -> xr.DataTree:
    """Sample every chain of a run that its store does not hold yet.

    Parameters
    ----------
    spec : RunSpec
        From `devinterp.sampling.prepare.prepare`.
    options : RunOptions
        Where and how.
    tell_diverged : callable, optional
        What to do about chains that diverged. Default: warn.

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
    requested = RequestedRun(spec, fingerprint.fingerprints(spec), options.paired)
    with _store_of(options) as store:
        layout, shared = None, SharedPrefix()
        if store.is_empty():
            # Measured before the store is touched: a run that is refused leaves nothing behind.
            requested = replace(requested, spec=with_stiff_directions(spec))
            layout = layout_of(LossesAtW0(requested.spec, shared), paired=requested.measures_rows)
        else:
            store.inspect()
        if layout is not None or options.repair or not requested.is_finished(store):
            with store.lock() as lock:
                spec = prepare_store(store, requested, layout, shared, notes=options.notes or {}, repair=options.repair)
                remaining = store.pending(spec.settings.num_steps)
                if remaining:
                    with _kept_in_memory(store):
                        _Sampling(spec, store, options, lock, shared).run(remaining)
        tell_diverged(store)
        return store.open_tree()


@contextmanager
def _kept_in_memory(store: RunStore) -> Iterator[None]:
    """Give an error on the way what was sampled until then as its attribute ``tree``, where it is stored nowhere else."""
    try:
        yield
    except BaseException as error:
        if store.in_memory and store.read_status().steps_done.any():
            error.tree = store.open_tree()  # type: ignore[attr-defined]
            error.add_note(
                "What was sampled until then is the attribute `tree` of this error: `error.tree.to_zarr(path)` saves it, and "
                "`error.tree.slt.llc(chains='finished')` uses the chains that were finished. With `output_path=` the same call "
                "goes on where it stopped."
            )
        raise


@contextmanager
def _store_of(options: RunOptions) -> Iterator[RunStore]:
    """Give the store that a run is written to."""
    if options.output_path is not None:
        yield RunStore.at(options.output_path, storage_options=options.storage_options)
    elif options.client is not None:
        raise InvalidInputError("with `client`, `output_path` must be a path or URL that all its workers can write to.")
    elif options.workers:
        # Other processes cannot write into this one's memory.
        with RunStore.temporary() as store:
            yield store
    else:
        yield RunStore.memory()


@final
class _Sampling:
    """Samples the chains of a run that are not at their end, while the store is locked."""

    def __init__(
        self, spec: RunSpec, store: RunStore, options: RunOptions, lock: Lock | None, shared: SharedPrefix
    ) -> None:
        self._spec, self._store, self._options, self._lock, self._shared = spec, store, options, lock, shared
        self._checkpoints = CheckpointOptions(options.checkpoint_share, options.keep_state)

    def run(self, remaining: Mapping[ChainKey, int]) -> None:
        """Run everything that remains, here or in other processes, and complete the provenance."""
        spec, store, lock = self._spec, self._store, self._lock
        labels = _labels(list(spec.restrictions))
        how = "" if self._options.output_path is None else f"the same call goes on with {store.name}"
        with (
            display(self._options.progress, spec.settings, lambda: start_losses(spec, store), labels) as bars,
            listening() as stop,
        ):
            if lock is not None:
                lock.report(bars.heartbeat)
            notices = Notices(bars.say)
            notices.tell(spec.choices)
            monitor = RunMonitor(bars.show, stop, None if lock is None else lock.check, how, notices.tell)
            try:
                choices = self._run_all(remaining, monitor, bars)
            except Stopped as stopped:
                print(stopped, file=sys.stderr)
                raise
        if lock is not None:
            lock.verify()
        store.commit("chains of all workers")  # from here on this process, too, sees what they wrote
        self._record_end(choices)
        store.commit("run ended")
        if not self._options.keep_state:
            store.remove_checkpoints()

    def _run_all(self, remaining: Mapping[ChainKey, int], monitor: RunMonitor, bars: Display) -> dict[str, str]:
        options, choices = self._options, dict[str, str]()
        if options.workers or options.client is not None:
            # Every plan is made here, so that it does not depend on the workers.
            all_tasks = [task for tasks in self._tasks(remaining, bars, self._shared) for task in tasks]
            self._shared.clear()  # activations for chains that run elsewhere
            return self._run_elsewhere(all_tasks, monitor, bars)
        runner = TaskRunner(self._spec, self._store, self._checkpoints, self._shared)
        for tasks in self._tasks(remaining, bars, self._shared):
            choices |= runner.run(tasks, monitor)
        return choices

    def _run_elsewhere(self, tasks: Sequence[Task], monitor: RunMonitor, bars: Display) -> dict[str, str]:
        lock, options = self._lock, self._options
        assert lock is not None
        token = lock.owner.token
        packed = job.pack(self._spec, self._store, self._checkpoints, token)
        planned = {key: choice for task in tasks for key, choice in task.choices.items()}
        monitor.tell(planned)
        if options.client is None:
            return planned | local_processes.run_in_processes(packed, tasks, options.workers or 1, monitor)

        def ask_to_stop() -> None:
            lock.report(lambda: {**bars.heartbeat(), job.STOP: True})
            lock.beat()

        return planned | dask_cluster.run_on_cluster(options.client, packed, token, tasks, monitor, ask_to_stop)

    def _tasks(self, remaining: Mapping[ChainKey, int], bars: Display, shared: SharedPrefix) -> Iterator[list[Task]]:
        """Yield the tasks of each restriction, and show their chains."""
        for tasks in tasks_of(self._spec, self._store, remaining, self._options.chains, shared):
            for task in tasks:
                for key in task.active:
                    bars.begin(*key, step=task.steps_done)
            yield tasks

    def _record_end(self, choices: Mapping[str, str]) -> None:
        """Complete the provenance: which ways of computing were chosen, and when the run ended."""
        provenance: dict[str, Any] = json.loads(self._store.read_attrs()["provenance"])
        provenance["paths"] = {**provenance.get("paths", {}), **self._spec.choices, **choices}
        provenance["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
        self._store.update_attrs({"provenance": json.dumps(provenance)})


def _labels(names: Sequence[str]) -> Callable[[int, int], str]:
    def label(restriction: int, chain: int) -> str:
        return f"chain {chain}" if len(names) == 1 else f"{names[restriction]} chain {chain}"

    return label
