"""Run tasks in this process: from their chains to the store, saving states on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field

import torch
import zarr
from zarr.abc.store import Store

from devinterp.sampling.chains.checkpointing import SHARE, CheckpointSchedule, Disabled, TimeBudget
from devinterp.sampling.chains.loop import run_chains
from devinterp.sampling.chains.reductions import reduction_of
from devinterp.sampling.engines.engine import Engine
from devinterp.sampling.engines.out_of_memory import explain
from devinterp.sampling.engines.plan import set_up
from devinterp.sampling.execution.progress import Update, summarize
from devinterp.sampling.execution.signals import Stop
from devinterp.sampling.execution.tasks import Task
from devinterp.sampling.spec import RunSpec
from devinterp.store.writing.writer import TraceWriter
from devinterp.types import Checkpoint


@dataclass(frozen=True)
class CheckpointOptions:
    """How a run guards against its end.

    Parameters
    ----------
    share : float
        Of the run's time that saving states may take; 0 saves only when asked to stop.
    keep_state : bool
        Whether states are kept when chains end, so that more draws go on from there.
    in_memory : bool
        Whether there is nothing to guard: the store dies with the process.
    """

    share: float = SHARE
    keep_state: bool = False
    in_memory: bool = False


@dataclass(frozen=True)
class RunMonitor:
    """Who watches a run.

    Parameters
    ----------
    show : callable
        Is shown every update.
    check : callable
        Raises when this process may not go on: it lost its lock.
    stop : Stop
        Whether somebody asked for an end.
    how_to_go_on : str
        What to tell them.
    """

    show: Callable[[Update], None]
    check: Callable[[], None]
    stop: Stop = field(default_factory=Stop)
    how_to_go_on: str = "run it again to go on"


def run_tasks(spec: RunSpec, tasks: Iterable[Task], store: Store, guard: CheckpointOptions, watch: RunMonitor) -> None:
    """Run tasks of one restriction after the other into the store.

    A chain that diverges is recorded, and the others go on. The model is left as it was.

    Raises
    ------
    StoreError
        If the store cannot be written any more.
    MemoryError
        If the device has not enough memory; the message says which batch size would fit.
    KeyboardInterrupt, SystemExit
        If somebody asked for an end; the state of the chains is saved then.
    """
    tasks = list(tasks)
    by_group = {task.group: task for task in tasks}
    name = tasks[0].name
    with TraceWriter(zarr.open_group(store, mode="r+")) as writer:
        groups = set_up(spec, name, spec.restrictions[name], list(by_group))
        with closing(groups):  # type: ignore[type-var]
            for chain_group, group in groups:
                try:
                    _run(chain_group, by_group[group], store, writer, guard, watch)
                except torch.cuda.OutOfMemoryError as error:
                    message = str(error)
                else:
                    continue
                raise explain(chain_group, message)


def _run(
    chains: Engine, task: Task, store: Store, writer: TraceWriter, guard: CheckpointOptions, watch: RunMonitor
) -> None:
    slots = task.slots(store)
    settings = chains.spec.settings
    if not task.live:
        return
    if task.recorded == settings.num_steps:  # killed between its last losses and the word that it has finished
        for chain in task.live:
            writer.finish(task.restriction, chain)
        return
    keeper = reduction_of(settings)
    start = keeper.resume(task.start(slots))
    pacer = Disabled() if guard.in_memory else _pacer(chains, guard, watch)
    writer.begin(task.restriction, task.live, step=start.recorded)
    records = run_chains(chains, restriction=task.restriction, chains=task.group.chains, start=start, pacer=pacer)
    for record in records:
        if isinstance(record, Checkpoint):
            assert isinstance(pacer, TimeBudget)
            writer.save(keeper.extend(record), slots, pacer.saved)
            watch.stop.raise_if_requested(watch.how_to_go_on)
        else:
            writer.append(keeper.reduce(record))
            watch.show(summarize(record, settings.num_burnin_steps))
        watch.check()
    if not guard.keep_state and not guard.in_memory:
        writer.remove(slots)
    watch.stop.raise_if_requested(watch.how_to_go_on)


def _pacer(chains: Engine, guard: CheckpointOptions, watch: RunMonitor) -> CheckpointSchedule:
    # Kernels keep a tensor like the weights, or none, or a few.
    size = 2 * sum(value.nbytes for value in chains.weights.values)
    return TimeBudget(size, share=guard.share, keep_last=guard.keep_state, stop=watch.stop.requested)
