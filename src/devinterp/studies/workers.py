"""Whole runs of a study in other processes, each with a model of its own."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch

from devinterp.sampling.execution.dask_cluster import run_on_cluster
from devinterp.sampling.execution.job import threads
from devinterp.sampling.execution.local_processes import run_in_processes
from devinterp.sampling.execution.monitor import RunMonitor
from devinterp.sampling.execution.packed_job import pickled
from devinterp.sampling.execution.progress import Update
from devinterp.sampling.execution.signals import Stop, listening
from devinterp.store.lock import Lock
from devinterp.store.study_store import StudyStore
from devinterp.studies.loading import ModelLoader
from devinterp.studies.make_run import Outcome, RunMaker
from devinterp.studies.plan import PlannedRun, StudyPlan


@final
@dataclass(frozen=True)
class StudyTask:
    """One run of a study, by its name."""

    name: str

    @property
    def description(self) -> str:
        """Return what a person calls it."""
        return f"run {self.name!r}"


@final
@dataclass(frozen=True)
class StudyJob:
    """What every worker of a study needs, sent once.

    Parameters
    ----------
    plan : StudyPlan
        The study; its runs are made in one process each.
    num_threads : int
        Threads of torch: sums are split among them, and how decides the last bits.
    """

    plan: StudyPlan
    num_threads: int

    def start(self) -> StudyWorker:
        """Return the worker of this process."""
        return StudyWorker(self)


@final
class StudyWorker:
    """One process's share of a study.

    Parameters
    ----------
    job : StudyJob
        What was sent.
    """

    def __init__(self, job: StudyJob) -> None:
        how = job.plan.how
        store = StudyStore.at(how.output_path, storage_options=how.storage_options)  # type: ignore[arg-type]
        self._job = job
        self._runs = {run.name: run for run in job.plan.runs}
        self._maker = RunMaker(job.plan, store, ModelLoader(job.plan.source))
        if threading.current_thread() is threading.main_thread():
            # A run listens for signals itself, where nobody else does.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def run(self, task: StudyTask, tell: Callable[[Update], None], stop: Stop) -> dict[str, str]:
        """Make one run; return what came of it as JSON, by its name."""
        with threads(self._job.num_threads):
            outcome = self._maker.make(self._runs[task.name])
        return {task.name: json.dumps(outcome.to_json())}


def make_elsewhere(
    plan: StudyPlan, waiting: Sequence[PlannedRun], lock: Lock, say: Callable[[str], None]
) -> dict[str, Outcome]:
    """Make runs in local processes or on a Dask cluster, one in each at a time.

    Parameters
    ----------
    plan : StudyPlan
        The study.
    waiting : sequence of PlannedRun
        Runs to be made.
    lock : Lock
        Of the study.
    say : callable
        Is given a line about each run that has ended.

    Returns
    -------
    dict of str to Outcome
        By the names of the runs.

    Raises
    ------
    InvalidInputError
        If something cannot be sent to other processes.
    """
    how = plan.how
    alone = replace(how, workers=None, client=None, progress=False)
    job = StudyJob(replace(plan, runs=tuple(waiting), how=alone), torch.get_num_threads())
    packed = pickled(job, "the models, data or functions of this study")
    tasks = [StudyTask(run.name) for run in waiting]
    done: dict[str, Outcome] = {}

    def told(results: Any) -> None:
        for name, text in results.items():
            done[name] = Outcome.from_json(json.loads(text))
            say(f"run {len(done)} of {len(tasks)} has ended: {name}{done[name].remark}")

    with listening() as stop:
        monitor = RunMonitor(lambda update: None, stop, lock.check, "the same call goes on", told)
        if how.client is None:
            run_in_processes(packed, tasks, how.workers or 1, monitor)
        else:
            run_on_cluster(how.client, packed, lock.owner.token, tasks, monitor, lambda: None)
    return done
