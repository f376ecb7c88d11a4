"""Carry out a study: every run that its store does not hold yet, one model in memory at a time."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import final

import xarray as xr
from rich.console import Console

from devinterp import schema
from devinterp.errors import DivergenceWarning, FailedRunsWarning, StudyError
from devinterp.sampling.model_guard import own_randomness
from devinterp.store.lock import Lock
from devinterp.store.study_store import StudyStore
from devinterp.studies.arguments import label_text
from devinterp.studies.loading import ModelLoader
from devinterp.studies.make_run import Outcome, RunMaker
from devinterp.studies.plan import PlannedRun, StudyPlan, in_order, store_of
from devinterp.studies.workers import make_elsewhere


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
            work.run(None)
            return work.in_memory()
        table = plan.table(store.table())
        with store.lock() as lock:
            store.remove_leftovers()
            if table != store.table():
                store.write_table(table)
            work = _Work(plan, store)
            work.run(lock)
            store.consolidate()
        work.report()
        return store.open_tree()


@final
class _Work:
    """What one call makes of a study, and what went wrong."""

    def __init__(self, plan: StudyPlan, store: StudyStore | None) -> None:
        self._plan = plan
        self._maker = RunMaker(plan, store, ModelLoader(plan.source))
        self._outcomes: dict[str, Outcome] = {}
        self._show = _shows(plan.how.progress)

    def run(self, lock: Lock | None) -> None:
        """Make all runs that the store lacks; those that fail are recorded."""
        plan, how = self._plan, self._plan.how
        waiting = [run for run in in_order(plan, plan.runs) if not self._maker.is_stored(run)]
        enough = how.client is not None or bool(how.workers and len(waiting) >= how.workers)
        if lock is not None and len(waiting) > 1 and enough:
            # Whole runs keep all workers busy; fewer runs are spread over them by their chains.
            self._outcomes = make_elsewhere(plan, waiting, lock, self._say)
        else:
            self._run_here(waiting)
        failed = self._failed
        if waiting and len(failed) == len(plan.runs):
            name = next(iter(failed))
            cause = self._maker.errors[0] if self._maker.errors else None
            raise StudyError(
                f"all {len(failed)} runs of the study failed; the first, {name!r}: {failed[name]}"
            ) from cause

    def _run_here(self, waiting: Sequence[PlannedRun]) -> None:
        for number, run in enumerate(waiting):
            self._say(f"run {number + 1} of {len(waiting)}: {label_text(run.point.labels)}")
            following = waiting[number + 1] if number + 1 < len(waiting) else None
            outcome = self._outcomes[run.name] = self._maker.make(run, following)
            if outcome.remark:
                self._say(f"run {run.name}{outcome.remark}")

    @property
    def _failed(self) -> dict[str, str]:
        return {name: each.error for name, each in self._outcomes.items() if each.error is not None}

    def in_memory(self) -> xr.DataTree:
        """Return the runs of this call as one tree."""
        self.report()
        table = replace(self._plan.table(None), failed=self._failed)
        root = xr.DataTree()
        root.attrs[schema.STUDY] = json.dumps(table.to_json())
        for run in self._plan.runs:
            if run.name in self._maker.trees:
                root[run.name] = self._maker.trees[run.name]
        return root

    def report(self) -> None:
        """Warn of runs that failed, and of chains that diverged."""
        failed, number = self._failed, len(self._plan.runs)
        if failed:
            lines = _listed(f"{name}: {error.splitlines()[0]}" for name, error in failed.items())
            warnings.warn(
                f"{len(failed)} of {number} runs failed, and are tried again by the same call:\n  {lines}",
                FailedRunsWarning,
                stacklevel=4,
            )
        diverged = {name: each for name, each in self._outcomes.items() if each.diverged}
        if diverged:
            lines = _listed(f"{name}: {each.diverged} of {each.chains} chains" for name, each in diverged.items())
            warnings.warn(
                f"chains of {len(diverged)} of {number} runs diverged; analyses refuse these runs unless told "
                f"`chains='finished'`:\n  {lines}",
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
