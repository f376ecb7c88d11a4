"""Make a store ready for a run: create it, let it grow, take out what is damaged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store

from devinterp import schema
from devinterp.sampling.chains.initial_loss import initial_loss
from devinterp.sampling.execution.tasks import pending
from devinterp.sampling.run_store import fingerprint as identity
from devinterp.sampling.run_store.array_layout import grown_layout, layout
from devinterp.sampling.run_store.compare import Extension, compare
from devinterp.sampling.spec import RunSpec
from devinterp.store import keys as raw
from devinterp.store.arrays.create import create_run, grow_run, is_empty
from devinterp.store.arrays.layout import RunLayout
from devinterp.store.integrity.repair import discard, rewrite
from devinterp.store.integrity.verify import check
from devinterp.store.reading.status import read_attrs, read_status
from devinterp.store.writing.transactions import commit


@dataclass(frozen=True)
class RequestedRun:
    """A run as it is asked for.

    Parameters
    ----------
    spec : RunSpec
        The run.
    loss_dims : tuple of str
        Names of the dims of one sample's loss.
    prints : mapping
        Its fingerprints, which take a while to make.
    """

    spec: RunSpec
    loss_dims: tuple[str, ...]
    prints: Mapping[str, Any]

    def compare(self, store: Store, where: str) -> Extension:
        """Return what this asks for beyond what a store holds; see `devinterp.sampling.run_store.compare.compare`."""
        return compare(store, where, self.spec, self.loss_dims, self.prints)


def is_finished(store: Store, where: str, wanted: RequestedRun) -> bool:
    """Say whether a store holds all of a run.

    Raises
    ------
    StoreError
        If it holds none, or another.
    """
    return not wanted.compare(store, where) and not pending(store, wanted.spec.settings.num_steps)


def prepare_store(
    store: Store, where: str, wanted: RequestedRun, fresh: RunLayout | None, *, notes: Mapping[str, Any], repair: bool
) -> RunSpec:
    """Make a store ready for a run, holding its lock.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    where : str
        Its name, for messages.
    wanted : RequestedRun
        The run.
    fresh : RunLayout or None
        What it is to hold, where that is known because it was empty.
    notes : mapping
        For the provenance.
    repair : bool
        Whether to check it, and to take out what is damaged.

    Returns
    -------
    RunSpec
        With its parts in the order of the store.

    Raises
    ------
    StoreError
        If the store holds another run, or something else.
    """
    raw.remove_leftovers(store)
    spec, loss_dims = wanted.spec, wanted.loss_dims
    provenance = {**identity.provenance(spec, wanted.prints), "notes": dict(notes)}
    if is_empty(store):
        create_run(store, fresh or layout(spec, loss_dims, initial_loss(spec)), _attrs(spec, loss_dims, provenance))
        commit(store, "run prepared")
        return spec
    growth = wanted.compare(store, where)
    spec = growth.spec
    if growth:
        before = json.loads(read_attrs(store)["provenance"])
        # What made the older part stays on record.
        kept = {key: value for key, value in before.items() if key not in ("fingerprints", "earlier", "notes")}
        provenance |= {"earlier": [*before.get("earlier", ()), kept], "notes": {**before.get("notes", {}), **notes}}
        larger = grown_layout(growth, loss_dims, zarr.open_group(store, mode="r"))
        _reopen(store, growth)
        grow_run(store, larger, _attrs(spec, loss_dims, provenance))
    if repair:
        fixed = discard(store, list(check(store)))
        if fixed:
            rewrite(store, layout(spec, loss_dims, initial_loss(spec)), fixed)
    commit(store, "run extended or repaired")
    return spec


def _attrs(spec: RunSpec, loss_dims: tuple[str, ...], provenance: Mapping[str, Any]) -> dict[str, str]:
    return {"config": json.dumps(identity.config(spec, loss_dims)), "provenance": json.dumps(provenance)}


def _reopen(store: Store, growth: Extension) -> None:
    """Mark chains that are to go on; those with a new observable from their start, because its losses are needed there."""
    state = zarr.open_array(store, path=f"{schema.STATUS}/state", mode="r+")
    done = zarr.open_array(store, path=f"{schema.STATUS}/steps_done", mode="r+")
    found = read_status(store)
    for key in np.ndindex(found.state.shape):
        if growth.observables:
            done[key] = 0
        if growth.observables or (growth.draws and found.state[key] == schema.FINISHED):
            state[key] = schema.PENDING
