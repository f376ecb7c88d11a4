"""Run tasks in this process: from their chains to the store, saving checkpoints on the way."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import final

import torch

from devinterp.sampling.chains.checkpointing import SHARE, CheckpointSchedule, Disabled, TimeBudget, check_share
from devinterp.sampling.chains.loop import run_chains
from devinterp.sampling.chains.reductions import reduction_of
from devinterp.sampling.engines.engine import Engine
from devinterp.sampling.engines.out_of_memory import explain
from devinterp.sampling.engines.plan import engines_of
from devinterp.sampling.engines.prefix_cache import SharedPrefix
from devinterp.sampling.execution.monitor import RunMonitor
from devinterp.sampling.execution.progress import summarize
from devinterp.sampling.execution.tasks import Task
from devinterp.sampling.spec import RunSpec
from devinterp.store.run_store import RunStore
from devinterp.store.writing.writer import TraceWriter
from devinterp.types import Checkpoint

#: About how many metrics are recorded of each draw.
_NUM_DRAW_METRICS = 5


@final
@dataclass(frozen=True)
class CheckpointOptions:
    """How a run is protected against its end.

    Parameters
    ----------
    share : float
        Share of the run's time that checkpoints may take, in [0, 1]; 0 saves only when asked to stop.
    keep_state : bool
        Whether the last checkpoint is kept when chains end, so that more draws go on from there.

    Raises
    ------
    InvalidInputError
        If the share is none.
    """

    share: float = SHARE
    keep_state: bool = False

    def __post_init__(self) -> None:
        check_share(self.share)


@final
class TaskRunner:
    """Runs tasks of one run in this process.

    Restrictions that are run one after the other share the activations of layers that are constant under both.

    Parameters
    ----------
    spec : RunSpec
        The run.
    store : RunStore
        Where its draws go.
    checkpoints : CheckpointOptions
        How chains are saved; ignored where the store dies with the process.
    shared : SharedPrefix, optional
        What restrictions share in this process; default: nothing yet.
    """

    def __init__(
        self, spec: RunSpec, store: RunStore, checkpoints: CheckpointOptions, shared: SharedPrefix | None = None
    ) -> None:
        self._spec, self._store, self._checkpoints = spec, store, checkpoints
        self._shared = shared or SharedPrefix()

    def run(self, tasks: Sequence[Task], monitor: RunMonitor) -> dict[str, str]:
        """Run tasks one after the other into the store.

        A chain that diverges is recorded, and the others go on. The model is left as it was.

        Parameters
        ----------
        tasks : sequence of Task
            What to do.
        monitor : RunMonitor
            Is told of progress, and says when to stop.

        Returns
        -------
        dict of str to str
            Which way of computing was chosen for what, and why; for the provenance.

        Raises
        ------
        StoreError
            If the store cannot be written any more.
        OutOfMemoryError
            If the device has not enough memory; the message says which batch size would fit.
        KeyboardInterrupt, SystemExit
            If somebody asked for an end; the chains are saved then.
        """
        task_of = {task.batch: task for task in tasks}
        choices: dict[str, str] = {}
        with self._store.writer() as writer:
            engines = engines_of(self._spec, list(task_of), self._shared)
            with closing(engines):  # type: ignore[type-var]
                for engine, batch in engines:
                    chosen = task_of[batch].choices
                    if engine.note:
                        chosen |= {f"prefix/{name}": engine.note for name in batch.restrictions}
                    if engine.compile_note:
                        chosen |= {f"compile/{name}": engine.compile_note for name in batch.restrictions}
                    choices |= chosen
                    monitor.tell(chosen)
                    try:
                        self._run(engine, task_of[batch], writer, monitor)
                    except torch.cuda.OutOfMemoryError as error:
                        message = str(error)
                    else:
                        continue
                    raise explain(engine, message)
        return choices

    def _run(self, engine: Engine, task: Task, writer: TraceWriter, monitor: RunMonitor) -> None:
        slots, settings = task.slots(self._store), self._spec.settings
        if not task.active:
            return
        if task.steps_done == settings.num_steps:  # killed between its last losses and the word that it has finished
            for key in task.active:
                writer.finish(*key)
            return
        reduction = reduction_of(settings)
        start = reduction.resume(task.start(slots))
        schedule = self._schedule(engine, len(task.active), monitor)
        writer.begin(task.active, step=start.steps_done)
        for record in run_chains(
            engine, restrictions=task.restrictions, chains=task.batch.chains, start=start, checkpoints=schedule
        ):
            if isinstance(record, Checkpoint):
                writer.save(reduction.extend(record), slots, schedule.written)
                monitor.raise_if_stopped()
            else:
                writer.append(reduction.reduce(record))
                monitor.show(summarize(record, settings))
                if self._store.in_memory:  # there is nothing to save first
                    monitor.raise_if_stopped()
            monitor.check_owner()
        if not self._checkpoints.keep_state and not self._store.in_memory:
            writer.remove(slots)
        monitor.raise_if_stopped()

    def _schedule(self, engine: Engine, num_chains: int, monitor: RunMonitor) -> CheckpointSchedule:
        if self._store.in_memory:
            return Disabled()
        # Kernels keep a tensor like the weights, or none, or a few.
        size = 2 * sum(value.nbytes for value in engine.weights.values)
        spec, options = self._spec, self._checkpoints
        # Losses of steps, and what is recorded of each draw.
        num_arrays = 1 + len(spec.settings.metric_names) + len(spec.observables) + len(spec.recorders)
        num_arrays += _NUM_DRAW_METRICS * bool(spec.virial)
        return TimeBudget(
            size,
            num_chunks=num_arrays * num_chains,
            share=options.share,
            keep_last=options.keep_state,
            stop=monitor.stop.requested,
        )
