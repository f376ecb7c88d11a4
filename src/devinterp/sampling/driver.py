"""Run a prepared problem: create or find its store, sample what is missing, and open what was written."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.storage import MemoryStore

from devinterp import schema
from devinterp.errors import DivergenceWarning
from devinterp.sampling import identity
from devinterp.sampling.execute import Durability, Watch, run_tasks
from devinterp.sampling.growth import Growth, compare
from devinterp.sampling.initial import initial_loss
from devinterp.sampling.layout import grown_layout, layout
from devinterp.sampling.pacing import check_share
from devinterp.sampling.problem import Problem
from devinterp.sampling.progress import display
from devinterp.sampling.stopping import Stopped, listening
from devinterp.sampling.tasks import pending, tasks_of
from devinterp.store import raw, states
from devinterp.store.create import create, grow, is_empty
from devinterp.store.layout import RunLayout
from devinterp.store.location import StoreLike, describe, resolve
from devinterp.store.lock import Lock
from devinterp.store.open import open as open_store
from devinterp.store.open import read_attrs, read_status


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
    guard : Durability
        How states are saved.
    notes : mapping
        JSON-able values to record in the provenance.
    """

    output_path: StoreLike | None = None
    storage_options: Mapping[str, Any] | None = None
    progress: bool | None = None
    chains: str = "auto"
    guard: Durability = field(default_factory=Durability)
    notes: Mapping[str, Any] = field(default_factory=dict)


def run(problem: Problem, loss_dims: tuple[str, ...], options: Options) -> xr.DataTree:
    """Sample every chain of a problem that its store does not hold yet.

    Parameters
    ----------
    problem : Problem
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
    check_share(options.guard.share)
    in_memory = options.output_path is None
    store: Store
    if options.output_path is None:
        store, where = MemoryStore(), "memory"
        options = replace(options, guard=replace(options.guard, in_memory=True))
    else:
        store = resolve(options.output_path, storage_options=options.storage_options)
        where = describe(options.output_path)
    prints = identity.fingerprints(problem)
    # Measured before anything is written: a loss that is not finite refuses the run, which leaves nothing behind.
    fresh = layout(problem, loss_dims, initial_loss(problem)) if is_empty(store) else None
    if fresh is not None or not _is_finished(store, compare(store, where, problem, loss_dims, prints)):
        with _held(store, where, in_memory) as (check, tell):
            problem = _settle(store, where, problem, loss_dims, prints, options.notes, fresh)
            _sample(problem, store, options, check=check, tell=tell)
    warn_of_diverged(store)
    return open_store(store, chunks=None).load() if in_memory else open_store(store)


def _is_finished(store: Store, growth: Growth) -> bool:
    return not growth and not pending(store, growth.problem.settings.num_steps)


Tell = Callable[[Callable[[], Mapping[str, Any]]], None]


@contextmanager
def _held(store: Store, where: str, in_memory: bool) -> Iterator[tuple[Callable[[], None], Tell]]:
    """Hold the lock of a store; give what checks it, and what takes the function whose result its heartbeat carries."""
    if in_memory:
        yield lambda: None, lambda _: None
        return
    source: list[Callable[[], Mapping[str, Any]]] = [dict]
    with Lock(store, where, progress=lambda: source[-1]()) as lock:
        raw.sweep(store)
        yield lock.check, source.append
        lock.verify()


def _settle(
    store: Store,
    where: str,
    problem: Problem,
    loss_dims: tuple[str, ...],
    prints: Mapping[str, Any],
    notes: Mapping[str, Any],
    fresh: RunLayout | None,
) -> Problem:
    """Make the store ready for a problem; return the problem with its parts in the order of the store."""
    provenance = {**identity.provenance(problem, prints), "notes": dict(notes)}
    if is_empty(store):
        attrs = {"config": json.dumps(identity.config(problem, loss_dims)), "provenance": json.dumps(provenance)}
        create(store, fresh or layout(problem, loss_dims, initial_loss(problem)), attrs)
        return problem
    growth = compare(store, where, problem, loss_dims, prints)
    if growth:
        problem = growth.problem
        before = json.loads(read_attrs(store)["provenance"])
        # What made the older part stays on record.
        kept = {key: value for key, value in before.items() if key not in ("fingerprints", "earlier", "notes")}
        provenance |= {"earlier": [*before.get("earlier", ()), kept], "notes": {**before.get("notes", {}), **notes}}
        attrs = {"config": json.dumps(identity.config(problem, loss_dims)), "provenance": json.dumps(provenance)}
        larger = grown_layout(growth, loss_dims, zarr.open_group(store, mode="r"))
        _reopen(store, growth)
        grow(store, larger, attrs)
    return growth.problem


def _reopen(store: Store, growth: Growth) -> None:
    """Mark chains that are to go on; those with a new observable from their start, because its losses are needed there."""
    state = zarr.open_array(store, path=f"{schema.STATUS}/state", mode="r+")
    done = zarr.open_array(store, path=f"{schema.STATUS}/steps_done", mode="r+")
    found = read_status(store)
    for key in np.ndindex(found.state.shape):
        if growth.observables:
            done[key] = 0
        if growth.observables or (growth.draws and found.state[key] == schema.FINISHED):
            state[key] = schema.PENDING


def _sample(problem: Problem, store: Store, options: Options, *, check: Callable[[], None], tell: Tell) -> None:
    """Sample the chains of a run that are not at their end."""
    left = pending(store, problem.settings.num_steps)
    if not left:
        return
    root = zarr.open_group(store, mode="r")
    init_loss = float(np.nanmean(np.asarray(root[f"{schema.TRACE}/init_loss"][...])))  # type: ignore[index]
    names = list(problem.restrictions)
    how = f"the same call goes on with {describe(options.output_path)}" if options.output_path is not None else ""
    with display(options.progress, problem.settings, init_loss, _labels(names)) as bars, listening() as stop:
        tell(bars.heartbeat)
        watch = Watch(bars.show, check, stop, how)
        try:
            for tasks in tasks_of(problem, store, left, options.chains):
                for task in tasks:
                    for chain in task.live:
                        bars.begin(task.restriction, chain, step=task.recorded)
                run_tasks(problem, tasks, store, options.guard, watch)
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            raise
    _record_end(problem, store)
    if not options.guard.keep_state:
        states.remove_all(store)


def _record_end(problem: Problem, store: Store) -> None:
    """Complete the provenance: what was chosen on the way, and when it ended."""
    provenance = json.loads(read_attrs(store)["provenance"])
    provenance["paths"] = {**provenance.get("paths", {}), **problem.paths}
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
