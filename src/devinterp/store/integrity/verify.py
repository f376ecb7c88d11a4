"""Check a stored run end to end: its metadata, every chunk, and whether its status agrees with them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store

from devinterp import schema
from devinterp.errors import StoreError, first_line
from devinterp.schema import CHAIN, DRAW, RESTRICTION, STEP
from devinterp.store import keys
from devinterp.store.integrity.chunks import StoredArray
from devinterp.store.integrity.damage import Damage
from devinterp.store.lock import LOCK
from devinterp.store.reading.status import Status, read_status
from devinterp.store.reading.validate import inspect, inspect_node, walk
from devinterp.store.writing.checkpoints import RESUME

#: How many damages of one array are named.
_MAX_DAMAGES = 1000
_REQUIRED = (RESTRICTION, CHAIN, DRAW, "draw_step", f"{schema.TRACE}/{STEP}", f"{schema.TRACE}/init_loss")


def check(store: Store, group: str = "") -> Iterator[Damage]:
    """Yield what is wrong with a run, reading all of it, chunk by chunk.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    group : str, optional
        Path of the run in it.

    Raises
    ------
    StoreError
        If there is no run.
    """
    inspect(store)
    attrs = keys.get_attrs(store, group)
    if attrs.get("schema_version") not in schema.READABLE_VERSIONS:
        raise StoreError(
            f"no run at {group or '/'!r}: expected attribute `schema_version` {schema.SCHEMA_VERSION}; got "
            f"{attrs.get('schema_version')!r}."
        )
    for name in ("config", "provenance"):
        try:
            json.loads(attrs[name])
        except (KeyError, TypeError, ValueError):
            yield Damage("", f"its attribute `{name}` is no JSON")
    arrays: dict[str, StoredArray] = {}
    for item in _arrays(store, group):
        if isinstance(item, Damage):
            yield item
        else:
            arrays[item.path] = item
    for path in _expected(store, group):
        if path not in arrays:
            yield Damage(path, "is missing or cannot be opened")
    try:
        status = read_status(store, group)
        num_steps = arrays[f"{schema.TRACE}/{STEP}"].array.shape[0]
        draw_steps = np.asarray(arrays["draw_step"].array[...])
    except Exception as error:  # zarr raises errors of many kinds
        yield Damage(schema.STATUS, f"how far the chains are cannot be read: {error}")
        return
    yield from _check_status(status, num_steps)
    for stored in arrays.values():
        yield from _limited(_check_array(stored, status, num_steps, draw_steps))


def _limited(damages: Iterator[Damage]) -> Iterator[Damage]:
    """Yield the damages of one array; if there are too many, the first and that there are more."""
    first = list(itertools.islice(damages, _MAX_DAMAGES + 1))
    yield from first[:_MAX_DAMAGES]
    if len(first) > _MAX_DAMAGES:
        yield Damage(
            first[0].path, f"more than {_MAX_DAMAGES} things are wrong with it", first[-1].chain, first[-1].keys
        )


def _check_array(stored: StoredArray, status: Status, num_steps: int, draw_steps: np.ndarray) -> Iterator[Damage]:
    if stored.path.startswith(f"{schema.STATUS}/"):
        yield from stored.check_cells()
        return
    array, chains = stored.array, status.state.shape
    if stored.dims[:2] == (RESTRICTION, CHAIN) and array.ndim > 2 and array.shape[:2] == chains:
        for chain in np.ndindex(chains):
            yield from stored.check_chain(chain, _num_rows(stored, chain, status, num_steps, draw_steps))
    else:
        yield from stored.check_all()


def _arrays(store: Store, group: str) -> Iterator[StoredArray | Damage]:
    """Yield the arrays of a run, or why one cannot be used, bypassing consolidated metadata."""
    for path, node in walk(store, group):
        below = path[len(group) :].strip("/")
        if below.split("/")[0] in (RESUME, LOCK, schema.NULL):  # the last is a run of its own
            continue
        try:
            inspect_node(path, node)
            if node["node_type"] == "array":
                array: zarr.Array[Any] = zarr.open_array(store, path=path, mode="r", zarr_format=3)
                yield StoredArray(store, group, below, array)
        except Exception as error:  # zarr raises errors of many kinds
            yield Damage(below, f"its metadata cannot be used: {first_line(error, 200)}")


def _expected(store: Store, group: str) -> list[str]:
    """Return the arrays that must be there: some in every run, and those in the consolidated metadata."""
    root = keys.get_json(store, keys.metadata_key(group)) or {}
    nodes = (root.get("consolidated_metadata") or {}).get("metadata") or {}
    consolidated = [path for path, node in nodes.items() if node.get("node_type") == "array"]
    own = [path for path in consolidated if path.split("/")[0] != schema.NULL]
    return list(dict.fromkeys([*_REQUIRED, *own]))


def _num_rows(
    stored: StoredArray, chain: tuple[int, ...], status: Status, num_steps: int, draw_steps: np.ndarray
) -> int | None:
    """Return how many rows of a chain must be there by its status; None for data without steps or draws, all of them."""
    steps_done = int(status.steps_done[chain])
    along = stored.dims[2:3]
    if along == (STEP,):
        return min(steps_done, num_steps)
    if along == (DRAW,):
        # A chain that diverged has no draw at the step that broke it.
        broken_draw = status.state[chain] == schema.DIVERGED and steps_done - 1 in draw_steps
        return int(np.sum(draw_steps < steps_done)) - int(broken_draw)
    return None if status.state[chain] == schema.FINISHED else 0


def _check_status(status: Status, num_steps: int) -> Iterator[Damage]:
    for chain in np.ndindex(status.state.shape):
        state, steps_done = str(status.state[chain]), int(status.steps_done[chain])
        if state not in schema.STATES:
            yield Damage(f"{schema.STATUS}/state", f"{state!r} is none of {', '.join(schema.STATES)}", chain)
        path = f"{schema.STATUS}/steps_done"
        if not 0 <= steps_done <= num_steps:
            yield Damage(path, f"{steps_done} is not between 0 and {num_steps}", chain)
        elif state == schema.FINISHED and steps_done != num_steps:
            yield Damage(path, f"the chain is finished after {steps_done} of {num_steps} steps", chain)
