"""What remains to be done of a run: batches of chains, each to be run from where its store has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, final

from devinterp import schema
from devinterp.sampling.chains.loop import Start
from devinterp.sampling.engines.plan import ChainBatch, plan
from devinterp.sampling.spec import RunSpec
from devinterp.store.run_store import RunStore
from devinterp.store.writing.checkpoints import CheckpointSlots

#: Restriction and chain, by number.
ChainKey = tuple[int, int]


@final
@dataclass(frozen=True)
class Task:
    """One batch of chains to run.

    Parameters
    ----------
    restriction : int
        Number of the restriction.
    name : str
        Its name.
    batch : ChainBatch
        The chains.
    active : tuple of int
        Those that are not at their end.
    steps_done : int
        Steps of all of these that are stored.
    """

    restriction: int
    name: str
    batch: ChainBatch
    active: tuple[int, ...]
    steps_done: int

    def slots(self, store: RunStore) -> CheckpointSlots:
        """Return where checkpoints of the batch are stored."""
        return store.checkpoint_slots(self.restriction, self.batch.chains)

    def start(self, slots: CheckpointSlots) -> Start:
        """Return where the batch begins."""
        checkpoint = slots.load(most=self.steps_done) if self.steps_done else None
        return Start(checkpoint, self.steps_done, self.active)


def refreshed(task: Task, store: RunStore) -> Task:
    """Return a task as the store has it now: another process may have done part of it."""
    status = store.read_status()
    active = [c for c in task.active if status.state[task.restriction, c] != schema.DIVERGED]
    if not active:
        return replace(task, active=())
    steps_done = min(int(status.steps_done[task.restriction, c]) for c in active)
    return replace(task, active=tuple(active), steps_done=steps_done)


def tasks_of(spec: RunSpec, store: RunStore, remaining: Mapping[ChainKey, int], mode: str) -> Iterator[list[Task]]:
    """Yield what remains of each restriction, deciding and storing how it is run when it is asked for.

    Chains that ran together before do so again, because only then are the numbers the same to the last bit.

    Parameters
    ----------
    spec : RunSpec
        The run.
    store : RunStore
        Its store.
    remaining : mapping of (int, int) to int
        Stored steps of every chain that is not at its end.
    mode : str
        As for `devinterp.sampling.engines.plan.plan`.
    """
    for restriction, (name, masks) in enumerate(spec.restrictions.items()):
        chains = [chain for r, chain in remaining if r == restriction]
        if not chains:
            continue
        known = range(spec.settings.num_chains)
        batches = [b for b in read_plan(store, name) if set(b.chains) & set(chains) and set(b.chains) <= set(known)]
        if mode in ("sequential", "vectorized"):
            # A wish for this way of computing overrides the stored plan where they differ.
            batches = [batch for batch in batches if batch.vectorized == (mode == "vectorized")]
        new = [chain for chain in chains if not any(chain in batch.chains for batch in batches)]
        if new:
            batches += plan(spec, masks, new, mode)
            _write_plan(store, name, batches)
        tasks = []
        for batch in batches:
            active = tuple(chain for chain in batch.chains if chain in chains)
            tasks.append(Task(restriction, name, batch, active, min(remaining[restriction, chain] for chain in active)))
        yield tasks


def read_plan(store: RunStore, restriction: str) -> list[ChainBatch]:
    """Return the batches in which chains of a restriction have run or are to run."""
    batches = []
    entries = _plans(store).get(restriction)
    for entry in entries if isinstance(entries, list) else ():
        with suppress(KeyError, TypeError, ValueError):
            chains = tuple(int(chain) for chain in entry["chains"])
            if chains and len(set(chains)) == len(chains) and (entry["vectorized"] or len(chains) == 1):
                batches.append(ChainBatch(chains, bool(entry["vectorized"]), str(entry["why"])))
    return batches


def _write_plan(store: RunStore, restriction: str, batches: Sequence[ChainBatch]) -> None:
    planned = {chain for batch in batches for chain in batch.chains}
    old = [batch for batch in read_plan(store, restriction) if not planned & set(batch.chains)]
    plans = {**_plans(store), restriction: [asdict(batch) for batch in [*old, *batches]]}
    store.update_attrs({_PLAN: plans}, schema.STATUS)


def _plans(store: RunStore) -> dict[str, Any]:
    plans = store.read_attrs(schema.STATUS).get(_PLAN)
    return plans if isinstance(plans, dict) else {}


#: Attribute of the group ``/status``: which chains of which restriction run together, and why.
_PLAN = "plan"
