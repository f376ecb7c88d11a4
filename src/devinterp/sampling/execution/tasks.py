"""What is left to do of a run: groups of chains, each to be run from where its store has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from zarr.abc.store import Store

from devinterp import schema
from devinterp.sampling.chains.loop import Start
from devinterp.sampling.engines import plan as grouping
from devinterp.sampling.engines.plan import Group
from devinterp.sampling.spec import RunSpec
from devinterp.store import keys as raw
from devinterp.store.reading.status import read_status
from devinterp.store.writing.checkpoints import CheckpointSlots

Key = tuple[int, int]


@dataclass(frozen=True)
class Task:
    """One group of chains to run.

    Parameters
    ----------
    restriction : int
        Number of the restriction.
    name : str
        Its name.
    group : Group
        The chains.
    live : tuple of int
        Those that are not finished.
    recorded : int
        Steps of all of these that are in the store.
    """

    restriction: int
    name: str
    group: Group
    live: tuple[int, ...]
    recorded: int

    def slots(self, store: Store) -> CheckpointSlots:
        """Return where the state of the group is kept."""
        return CheckpointSlots(store, self.restriction, self.group.chains)

    def start(self, slots: CheckpointSlots) -> Start:
        """Return where the group begins."""
        state = slots.load(most=self.recorded) if self.recorded else None
        return Start(state, self.recorded, self.live)


def pending(store: Store, num_steps: int) -> dict[Key, int]:
    """Return the steps that are in the store of every chain that is not at its end."""
    status = read_status(store)
    left = {}
    for key in np.ndindex(status.state.shape):
        done, state = int(status.steps_done[key]), str(status.state[key])
        if state == schema.DIVERGED or (state == schema.FINISHED and done == num_steps):
            continue
        left[key] = min(max(done, 0), num_steps)
    return left


def refreshed(task: Task, store: Store) -> Task:
    """Return a task as the store has it now: another process may have done part of it."""
    status = read_status(store)
    live = [c for c in task.live if status.state[task.restriction, c] != schema.DIVERGED]
    if not live:
        return replace(task, live=())
    return replace(task, live=tuple(live), recorded=min(int(status.steps_done[task.restriction, c]) for c in live))


def tasks_of(spec: RunSpec, store: Store, left: Mapping[Key, int], mode: str) -> Iterator[list[Task]]:
    """Yield what is left to do of each restriction, deciding and recording how it is run when it is asked for.

    Chains that ran together before do so again, because only then are the numbers the same to the last bit.
    """
    for restriction, (name, masks) in enumerate(spec.restrictions.items()):
        chains = [chain for r, chain in left if r == restriction]
        if not chains:
            continue
        known = range(spec.settings.num_chains)
        groups = [g for g in read_plan(store, name) if set(g.chains) & set(chains) and set(g.chains) <= set(known)]
        if mode != "auto":
            # A wish for this way of computing overrides the plan where they differ.
            groups = [group for group in groups if group.vectorized == (mode == "vectorized")]
        new = [chain for chain in chains if not any(chain in group.chains for group in groups)]
        if new:
            groups += grouping.plan(spec, masks, new, mode)
            _write_plan(store, name, groups)
        spec.paths[f"chains/{name}"] = groups[-1].why
        tasks = []
        for group in groups:
            live = tuple(chain for chain in group.chains if chain in chains)
            tasks.append(Task(restriction, name, group, live, min(left[restriction, chain] for chain in live)))
        yield tasks


def read_plan(store: Store, restriction: str) -> list[Group]:
    """Return the groups in which chains of a restriction have run or are to run."""
    groups = []
    entries = _plans(store).get(restriction)
    for entry in entries if isinstance(entries, list) else ():
        with suppress(KeyError, TypeError, ValueError):
            chains = tuple(int(chain) for chain in entry["chains"])
            if chains and len(set(chains)) == len(chains) and (entry["vectorized"] or len(chains) == 1):
                groups.append(Group(chains, bool(entry["vectorized"]), str(entry["why"])))
    return groups


def _write_plan(store: Store, restriction: str, groups: Sequence[Group]) -> None:
    kept = {chain for group in groups for chain in group.chains}
    old = [group for group in read_plan(store, restriction) if not kept & set(group.chains)]
    plans = {**_plans(store), restriction: [asdict(group) for group in [*old, *groups]]}
    raw.update_attrs(store, schema.STATUS, {_PLAN: plans})


def _plans(store: Store) -> dict[str, Any]:
    plans = raw.get_attrs(store, schema.STATUS).get(_PLAN)
    return plans if isinstance(plans, dict) else {}


#: Attribute of the group ``/status``: which chains of which restriction run together, and why.
_PLAN = "plan"
