"""Make a store ready for a run: create it, extend it, remove what is damaged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from devinterp import schema
from devinterp.sampling.chains.stiff_directions import with_stiff_directions
from devinterp.sampling.engines.losses_at_w0 import LossesAtW0
from devinterp.sampling.engines.prefix_cache import SharedPrefix
from devinterp.sampling.run_store import fingerprint
from devinterp.sampling.run_store.array_layout import ROW_ARRAYS, extended_layout, layout_of
from devinterp.sampling.run_store.compare import Extension, RequestedRun
from devinterp.sampling.spec import RunSpec
from devinterp.store.arrays.layout import RunLayout
from devinterp.store.run_store import RunStore


def prepare_store(
    store: RunStore,
    requested: RequestedRun,
    layout: RunLayout | None,
    shared: SharedPrefix,
    *,
    notes: Mapping[str, Any],
    repair: bool,
) -> RunSpec:
    """Make a store ready for a run, holding its lock.

    Parameters
    ----------
    store : RunStore
        The store.
    requested : RequestedRun
        The run.
    layout : RunLayout or None
        What a new store is to hold, where it has been measured already.
    shared : SharedPrefix
        What restrictions of the run share.
    notes : mapping
        For the provenance.
    repair : bool
        Whether to check the store, and to remove what is damaged.

    Returns
    -------
    RunSpec
        With its restrictions and observables in the order of the store.

    Raises
    ------
    StoreError
        If the store holds another run, or something else.
    """
    store.remove_leftovers()
    spec = requested.spec
    provenance = {**fingerprint.provenance(spec, requested.fingerprints), "notes": dict(notes)}
    if store.is_empty():
        store.create(
            layout or layout_of(LossesAtW0(spec, shared), paired=requested.measures_rows), _attrs(spec, provenance)
        )
        store.commit("run prepared")
        return spec
    extension = requested.compare(store)
    spec = with_stiff_directions(_as_stored(extension.spec, store))
    extension = replace(extension, spec=spec)
    if extension:
        before = json.loads(store.read_attrs()["provenance"])
        # What made the older part stays on record.
        kept = {key: value for key, value in before.items() if key not in ("fingerprints", "earlier", "notes")}
        provenance |= {"earlier": [*before.get("earlier", ()), kept], "notes": {**before.get("notes", {}), **notes}}
        larger = extended_layout(extension, store, LossesAtW0(spec, shared))
        _reopen(store, extension)
        store.grow(larger, _attrs(spec, provenance))
    if repair:
        damaged = store.discard_damaged()
        if damaged:
            paired = store.contains(f"{schema.TRACE}/row_id")
            # Rows of a store that was extended are in another order than in a new one: together they are right.
            rows = {f"{schema.TRACE}/{name}" for name in ROW_ARRAYS}
            store.rewrite(
                layout_of(LossesAtW0(spec, shared), paired=paired), damaged | rows if damaged & rows else damaged
            )
    store.commit("run extended or repaired")
    return spec


def _as_stored(spec: RunSpec, store: RunStore) -> RunSpec:
    """Return a run that measures at draws what its store holds of this."""
    along = f"{schema.METRICS}/{schema.DIRECTION}"
    return replace(
        spec,
        virial=store.contains(f"{schema.METRICS}/{schema.VIRIAL}"),
        num_directions=len(store.read_array(along)) if store.contains(along) else 0,
    )


def _attrs(spec: RunSpec, provenance: Mapping[str, Any]) -> dict[str, str]:
    return {"config": json.dumps(fingerprint.config(spec)), "provenance": json.dumps(provenance)}


def _reopen(store: RunStore, extension: Extension) -> None:
    """Mark chains that are to go on; with a new observable or recorder from their start, where it is needed too."""
    state = store.read_status().state
    chains = [
        key
        for key in np.ndindex(state.shape)
        if extension.evaluates_more or (extension.draws and state[key] == schema.FINISHED)
    ]
    store.reopen(chains, from_start=extension.evaluates_more)
