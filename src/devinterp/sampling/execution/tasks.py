"""What remains to be done of a run: batches of chains, each to be run from where its store has it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, final

from devinterp import schema
from devinterp.sampling.chains.loop import Start
from devinterp.sampling.engines.plan import ChainBatch, plan
from devinterp.sampling.engines.prefix_cache import SharedPrefix
from devinterp.sampling.engines.stacked_weights import alike
from devinterp.sampling.spec import RunSpec
from devinterp.store.run_store import RunStore
from devinterp.store.writing.checkpoints import CheckpointSlots
from devinterp.types import ChainKey


@final
@dataclass(frozen=True)
class Task:
    """One batch of chains to run.

    Parameters
    ----------
    restrictions : tuple of int
        Numbers of the restrictions.
    batch : ChainBatch
        The chains.
    active : tuple of (int, int)
        Restriction and number of those that are not at their end.
    steps_done : int
        Steps of all of these that are stored.
    """

    restrictions: tuple[int, ...]
    batch: ChainBatch
    active: tuple[ChainKey, ...]
    steps_done: int

    @property
    def name(self) -> str:
        """Return what a person calls the restrictions."""
        first, *more = self.batch.restrictions
        return f"{first} and {len(more)} more" if more else first

    @property
    def description(self) -> str:
        """Return which chains these are, for messages."""
        return f"restriction {self.name!r}, chains {list(self.batch.chains)}"

    @property
    def choices(self) -> dict[str, str]:
        """Return how its chains run, for the provenance."""
        return {f"chains/{name}": self.batch.why for name in self.batch.restrictions}

    def slots(self, store: RunStore) -> CheckpointSlots:
        """Return where checkpoints of the batch are stored."""
        return store.checkpoint_slots(self.restrictions, self.batch.chains)

    def start(self, slots: CheckpointSlots) -> Start:
        """Return where the batch begins."""
        checkpoint = slots.load(most=self.steps_done) if self.steps_done else None
        return Start(checkpoint, self.steps_done, self.active)


def refreshed(task: Task, store: RunStore) -> Task:
    """Return a task as the store has it now: another process may have done part of it."""
    status = store.read_status(task.active)
    active = [key for key in task.active if status.state[key] != schema.DIVERGED]
    if not active:
        return replace(task, active=())
    return replace(task, active=tuple(active), steps_done=min(int(status.steps_done[key]) for key in active))


def tasks_of(
    spec: RunSpec, store: RunStore, remaining: Mapping[ChainKey, int], mode: str, shared: SharedPrefix
) -> Iterator[list[Task]]:
    """Yield what remains of each restriction, deciding and storing how it is run when it is asked for.

    Restrictions that sample alike elements come together: their chains may run side by side. All do where chains run one after
    the other: then there is nothing to decide, and the plan is stored once. Chains that ran together before do so again,
    because only then are the numbers the same to the last bit.

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
    shared : SharedPrefix
        What restrictions of the run share in this process.
    """
    numbers = {name: number for number, name in enumerate(spec.restrictions)}
    of_restriction: dict[int, list[int]] = {}
    for restriction, chain in remaining:
        of_restriction.setdefault(restriction, []).append(chain)
    waiting = [name for name, number in numbers.items() if number in of_restriction]
    while waiting:
        first = spec.restrictions[waiting[0]]
        chains = {
            name: of_restriction[numbers[name]]
            for name in waiting
            if mode == "sequential" or name == waiting[0] or alike(spec.restrictions[name], first)
        }
        waiting = [name for name in waiting if name not in chains]
        tasks = []
        for batch in _batches(spec, store, chains, mode, shared):
            of_batch = tuple(numbers[name] for name in batch.restrictions)
            active = tuple(key for key in itertools.product(of_batch, batch.chains) if key in remaining)
            tasks.append(Task(of_batch, batch, active, min(remaining[key] for key in active)))
        yield tasks


def _batches(
    spec: RunSpec, store: RunStore, chains: Mapping[str, Sequence[int]], mode: str, shared: SharedPrefix
) -> list[ChainBatch]:
    """Return the batches of some restrictions that hold any of these chains: those that are stored, and new ones."""
    batches = [batch for batch in read_plan(store, chains) if _is_wanted(batch, spec, chains)]
    if mode in ("sequential", "vectorized"):
        # A wish for this way of computing overrides the stored plan where they differ.
        batches = [batch for batch in batches if batch.vectorized == (mode == "vectorized")]
    planned = {key for batch in batches for key in itertools.product(batch.restrictions, batch.chains)}
    new: dict[tuple[int, ...], list[str]] = {}
    for name, each in chains.items():
        unplanned = tuple(chain for chain in each if (name, chain) not in planned)
        if unplanned:
            new.setdefault(unplanned, []).append(name)
    for of_chains, names in new.items():
        batches += plan(spec, names, of_chains, mode, shared)
    if new:
        _write_plan(store, batches)
    order = {name: number for number, name in enumerate(spec.restrictions)}
    return sorted(batches, key=lambda batch: (order[batch.restrictions[0]], batch.chains))


def _is_wanted(batch: ChainBatch, spec: RunSpec, chains: Mapping[str, Sequence[int]]) -> bool:
    members = set(batch.chains)
    if not members <= set(range(spec.settings.num_chains)) or any(
        n not in spec.restrictions for n in batch.restrictions
    ):
        return False
    return any(members & set(chains.get(name, ())) for name in batch.restrictions)


def read_plan(store: RunStore, restrictions: Iterable[str]) -> list[ChainBatch]:
    """Return the batches in which chains of some restrictions have run or are to run."""
    plans = _plans(store)
    batches: dict[ChainBatch, None] = {}
    for restriction in restrictions:
        for entry in _entries(plans, restriction):
            batch = _read_batch(entry, restriction)
            # One that is not stored with all its restrictions has been replaced.
            if batch is not None and all(
                any(_read_batch(other, name) == batch for other in _entries(plans, name)) for name in batch.restrictions
            ):
                batches[batch] = None
    return list(batches)


def _entries(plans: Mapping[str, Any], restriction: str) -> list[Any]:
    entries = plans.get(restriction)
    return entries if isinstance(entries, list) else []


def _read_batch(entry: Any, restriction: str) -> ChainBatch | None:
    """Return a stored batch; None where it is none. Older stores name no restrictions: chains of one ran together."""
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        chains = tuple(int(chain) for chain in entry["chains"])
        names = tuple(str(name) for name in entry.get("restrictions", [restriction]))
        distinct = len(set(chains)) == len(chains) > 0 and len(set(names)) == len(names) and restriction in names
        if distinct and (entry["vectorized"] or len(chains) == len(names) == 1):
            return ChainBatch(names, chains, bool(entry["vectorized"]), str(entry["why"]))
    return None


def _write_plan(store: RunStore, batches: Sequence[ChainBatch]) -> None:
    """Store batches with each of their restrictions, in place of those that held any of their chains."""
    plans = dict(_plans(store))
    of_restriction: dict[str, list[ChainBatch]] = {}
    for each in batches:
        for name in each.restrictions:
            of_restriction.setdefault(name, []).append(each)
    for name, ours in of_restriction.items():
        planned = {chain for batch in ours for chain in batch.chains}
        old = [batch for entry in _entries(plans, name) if (batch := _read_batch(entry, name)) is not None]
        kept = [batch for batch in old if not planned & set(batch.chains)]
        plans[name] = [asdict(batch) for batch in [*kept, *ours]]
    store.update_attrs({_PLAN: plans}, schema.STATUS)


def _plans(store: RunStore) -> dict[str, Any]:
    plans = store.read_attrs(schema.STATUS).get(_PLAN)
    return plans if isinstance(plans, dict) else {}


#: Attribute of the group ``/status``: which chains of which restriction run together, and why.
_PLAN = "plan"
