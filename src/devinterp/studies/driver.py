"""Carry out a study: every run that its store does not hold yet, one model in memory at a time."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any, final

import xarray as xr
from rich.console import Console

from devinterp.errors import DivergenceWarning, FailedRunsWarning, StudyError
from devinterp.sampling.model_guard import own_randomness
from devinterp.store.study_store import StudyStore
from devinterp.studies.arguments import label_text
from devinterp.studies.loading import ModelLoader, may_load_ahead
from devinterp.studies.plan import PlannedRun, StudyPlan, in_order, store_of
from devinterp.studies.requests import Requests, is_stored
from devinterp.studies.run_one import failure, is_fatal, run_into


def carry_out_study(plan: StudyPlan) -> xr.DataTree:
    """Sample what the store of a study lacks, and open it.

    Parameters
    ----------
    plan : StudyPlan
        The study.

    Returns
    -------
    xarray.DataTree
        A run in each of its children.

    Raises
    ------
    StoreError
        If the store cannot be written, or holds something else.
    StudyError
        If no run could be made.
    """
    store = store_of(plan.how)
    with own_randomness(0, cuda=False):  # what loading models draws from the global generator is put back
        if store is None:
            work = _Work(plan, None)
            work.run(plan.runs)
            return work.in_memory()
        table = plan.table(store.table())
        with store.lock():
            store.remove_leftovers()
            if table != store.table():
                store.write_table(table)
            work = _Work(plan, store)
            work.run(plan.runs)
            store.consolidate()
        work.report()
        return store.open_tree()


@final
class _Work:
    """What one call makes of a study, and what went wrong."""

    def __init__(self, plan: StudyPlan, store: StudyStore | None) -> None:
        self._plan, self._store = plan, store
        self._requests = Requests(plan.how)
        self._loader = ModelLoader(plan.source)
        self._failed: dict[str, str] = {}
        self._diverged: dict[str, tuple[int, int]] = {}
        self._trees: dict[str, xr.DataTree] = {}
        self._first_error: Exception | None = None
        self._show = _shows(plan.how.progress)

    def run(self, runs: Sequence[PlannedRun]) -> None:
        """Make all runs that the store lacks; those that fail are recorded."""
        waiting = [run for run in in_order(self._plan, runs) if not self._is_stored(run)]
        for number, run in enumerate(waiting):
            self._say(f"run {number + 1} of {len(waiting)}: {label_text(run.point.labels)}")
            try:
                self._make(run, waiting[number + 1] if number + 1 < len(waiting) else None)
            except Exception as error:
                if is_fatal(error):
                    raise
                self._record(run, error)
        if waiting and len(self._failed) == len(self._plan.runs):
            name = next(iter(self._failed))
            raise StudyError(
                f"all {len(self._failed)} runs of the study failed; the first, {name!r}: {self._failed[name]}"
            ) from self._first_error

    def _make(self, run: PlannedRun, following: PlannedRun | None) -> None:
        plan, store = self._plan, self._store
        model = self._loader.get(run.point)
        identity = plan.source.identity(run.point)
        note = {
            "labels": dict(run.point.labels),
            "dims": dict(plan.dims),
            "model": identity,
            "request": self._requests.digest(run.arguments, identity),
        }

        def count(diverged: int, chains: int) -> None:
            before = self._diverged.get(run.name, (0, 0))
            self._diverged[run.name] = (before[0] + diverged, before[1] + chains)

        sampled, ahead = self._ready_to_load_ahead(model, run, following)
        tree = run_into(
            None if store is None else store.place(run.name),
            sampled,
            run.arguments,
            plan.how,
            note,
            meanwhile=(lambda: self._loader.ahead(following.point)) if ahead and following else nullcontext,
            tell_diverged=count,
        )
        if store is None:
            assert isinstance(tree, xr.DataTree)
            self._trees[run.name] = tree
        else:
            store.clear_failure(run.name)

    def _ready_to_load_ahead(self, model: Any, run: PlannedRun, following: PlannedRun | None) -> tuple[Any, bool]:
        """Return the model to sample, apart from what loading the next one may change, and whether that may be loaded now."""
        key = self._plan.source.key
        needed = following is not None and key(following.point) != key(run.point)
        if not needed or not may_load_ahead(model, run.arguments["loss_fn"] is not None):
            return model, False
        apart = self._loader.apart(model)
        return (model, False) if apart is None else (apart, True)

    def _is_stored(self, run: PlannedRun) -> bool:
        if self._store is None or not self._store.attrs(run.name):
            return False
        digest = self._requests.digest(run.arguments, self._plan.source.identity(run.point))
        return is_stored(self._store, run.name, digest, self._plan.how)

    def _record(self, run: PlannedRun, error: Exception) -> None:
        record = failure(error, run.point.labels)
        self._failed[run.name] = record["error"]
        self._first_error = self._first_error or error
        self._say(f"run {run.name} failed: {record['error'].splitlines()[0]}")
        if self._store is not None:
            self._store.record_failure(run.name, record)

    def in_memory(self) -> xr.DataTree:
        """Return the runs of this call as one tree."""
        self.report()
        table = replace(self._plan.table(None), failed=self._failed)
        root = xr.DataTree()
        root.attrs["study"] = json.dumps(table.to_json())
        for run in self._plan.runs:
            if run.name in self._trees:
                root[run.name] = self._trees[run.name]
        return root

    def report(self) -> None:
        """Warn of runs that failed, and of chains that diverged."""
        if self._failed:
            lines = _listed(f"{name}: {error.splitlines()[0]}" for name, error in self._failed.items())
            warnings.warn(
                f"{len(self._failed)} of {len(self._plan.runs)} runs failed, and are tried again by the same call:\n  {lines}",
                FailedRunsWarning,
                stacklevel=4,
            )
        if self._diverged:
            lines = _listed(f"{name}: {some} of {all_} chains" for name, (some, all_) in self._diverged.items())
            warnings.warn(
                f"chains of {len(self._diverged)} of {len(self._plan.runs)} runs diverged; analyses refuse these runs unless "
                f"told `chains='finished'`:\n  {lines}",
                DivergenceWarning,
                stacklevel=4,
            )

    def _say(self, line: str) -> None:
        if self._show:
            Console(stderr=True).print(line, style="dim", markup=False, highlight=False)


def _listed(lines: Iterable[str], limit: int = 20) -> str:
    shown = list(lines)
    more = [f"and {len(shown) - limit} more"] if len(shown) > limit else []
    return "\n  ".join([*shown[:limit], *more])


def _shows(progress: bool | None) -> bool:
    console = Console(stderr=True)
    return console.is_terminal or console.is_jupyter if progress is None else progress
