"""Verify a store end to end: what it says of itself, every chunk, and whether the two agree."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store

from devinterp import schema
from devinterp.errors import StoreError, first_line
from devinterp.schema import CHAIN, DRAW, RESTRICTION, STEP
from devinterp.store import keys as raw
from devinterp.store.lock import LOCK
from devinterp.store.reading.status import Status, read_status
from devinterp.store.reading.validate import bad_strings, inspect, inspect_node, walk
from devinterp.store.writing.checkpoints import RESUME

#: Of one array that are named.
_MAX_DAMAGES = 1000
_REQUIRED = (RESTRICTION, CHAIN, DRAW, "draw_step", f"{schema.TRACE}/{STEP}", f"{schema.TRACE}/init_loss")


@dataclass(frozen=True)
class Damage:
    """Something that is wrong with a run.

    Parameters
    ----------
    path : str
        Path of the array in the run; ``""`` for the run itself.
    what : str
        What is wrong with it.
    chain : tuple of int, optional
        The restriction and chain it belongs to, for data of one chain.
    keys : tuple of str
        Chunks in the store that cannot be used.
    """

    path: str
    what: str
    chain: tuple[int, int] | None = None
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        who = "" if self.chain is None else f", restriction {self.chain[0]}, chain {self.chain[1]}"
        return f"{self.path or 'the run'}{who}: {self.what}"


def check(store: Store, group: str = "") -> Iterator[Damage]:
    """Yield what is wrong with a run, reading all of it, chunk by chunk.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    group : str, optional
        Path of the run inside it.

    Raises
    ------
    StoreError
        If there is no run.
    """
    inspect(store)
    attrs = raw.get_attrs(store, group)
    if attrs.get("schema_version") != schema.SCHEMA_VERSION:
        raise StoreError(
            f"no run at {group or '/'!r}: expected attribute `schema_version` {schema.SCHEMA_VERSION}; got "
            f"{attrs.get('schema_version')!r}."
        )
    for name in ("config", "provenance"):
        try:
            json.loads(attrs[name])
        except (KeyError, TypeError, ValueError):
            yield Damage("", f"its attribute `{name}` is no JSON")
    arrays: dict[str, zarr.Array[Any]] = {}
    for path, found in _arrays(store, group):
        if isinstance(found, Damage):
            yield found
        else:
            arrays[path] = found
    for path in _expected(store, group):
        if path not in arrays:
            yield Damage(path, "is missing or cannot be opened")
    try:
        status = read_status(store, group)
        steps = arrays[f"{schema.TRACE}/{STEP}"].shape[0]
        draws = np.asarray(arrays["draw_step"][...])
    except Exception as error:  # zarr raises errors of many kinds
        yield Damage(schema.STATUS, f"how far chains are cannot be told: {error}")
        return
    yield from _check_status(status, steps)
    for path, array in arrays.items():
        yield from _few(_check_array(store, group, path, array, status, steps, draws))


def _few(damages: Iterator[Damage]) -> Iterator[Damage]:
    """Yield the damages of one array; if there are too many, the first and that there are more."""
    first = list(itertools.islice(damages, _MAX_DAMAGES + 1))
    yield from first[:_MAX_DAMAGES]
    if len(first) > _MAX_DAMAGES:
        yield Damage(
            first[0].path, f"more than {_MAX_DAMAGES} things are wrong with it", first[-1].chain, first[-1].keys
        )


def _check_array(
    store: Store, group: str, path: str, array: zarr.Array[Any], status: Status, steps: int, draws: np.ndarray
) -> Iterator[Damage]:
    if path.startswith(f"{schema.STATUS}/"):
        yield from _check_cells(store, group, path, array)
        return
    present = set(raw.list_keys(store, "/".join(part for part in (group, path) if part) + "/"))
    if _dims(array)[:2] == (RESTRICTION, CHAIN) and array.ndim > 2 and array.shape[:2] == status.state.shape:
        for key in np.ndindex(status.state.shape):
            num_rows = _num_rows(array, key, status, steps, draws)
            yield from _check_chain(present, group, path, array, key, num_rows)
    else:
        yield from _check_fixed(present, group, path, array)


def _arrays(store: Store, group: str) -> Iterator[tuple[str, zarr.Array[Any] | Damage]]:
    """Yield the arrays of a run by their own metadata, whatever consolidated ones say."""
    for path, node in walk(store, group):
        below = path[len(group) :].strip("/")
        if below.split("/")[0] in (RESUME, LOCK):
            continue
        try:
            inspect_node(path, node)
            if node["node_type"] == "array":
                yield below, zarr.open_array(store, path=path, mode="r")
        except Exception as error:  # zarr raises errors of many kinds
            yield below, Damage(below, f"its metadata cannot be used: {first_line(error, 200)}")


def _expected(store: Store, group: str) -> list[str]:
    """Return the arrays that must be there: some in every run, and what consolidated metadata promise."""
    root = raw.get_json(store, f"{group}/{raw.METADATA}".strip("/")) or {}
    nodes = (root.get("consolidated_metadata") or {}).get("metadata") or {}
    promised = [path for path, node in nodes.items() if node.get("node_type") == "array"]
    return list(dict.fromkeys([*_REQUIRED, *promised]))


def _dims(array: zarr.Array[Any]) -> tuple[Any, ...]:
    return tuple(getattr(array.metadata, "dimension_names", None) or ())


def _num_rows(
    array: zarr.Array[Any], key: tuple[int, int], status: Status, steps: int, draws: np.ndarray
) -> int | None:
    """Return how many rows of a chain's array count as written; None for data that are whole or not there."""
    done = int(status.steps_done[key])
    along = _dims(array)[2:3]
    if along == (STEP,):
        return min(done, steps)
    if along == (DRAW,):
        # A chain that diverged has no draw at the step that broke it.
        return int(np.sum(draws < done)) - int(status.state[key] == schema.DIVERGED and done - 1 in draws)
    return None if status.state[key] == schema.FINISHED else 0


def _check_status(status: Status, steps: int) -> Iterator[Damage]:
    for key in np.ndindex(status.state.shape):
        state, done = str(status.state[key]), int(status.steps_done[key])
        if state not in schema.STATES:
            yield Damage(f"{schema.STATUS}/state", f"{state!r} is none of {', '.join(schema.STATES)}", key)
        if not 0 <= done <= steps:
            yield Damage(f"{schema.STATUS}/steps_done", f"{done} is not between 0 and {steps}", key)
        elif state == schema.FINISHED and done != steps:
            yield Damage(f"{schema.STATUS}/steps_done", f"the chain is finished after {done} of {steps} steps", key)


def _check_cells(store: Store, group: str, path: str, array: zarr.Array[Any]) -> Iterator[Damage]:
    where = "/".join(part for part in (group, path) if part)
    node = raw.get_json(store, f"{where}/{raw.METADATA}") or {}
    bad = bad_strings(store, where, node)
    for key in np.ndindex(array.shape):
        chunk = tuple(k // n for k, n in zip(key, array.chunks, strict=True))
        name = _key(array, group, path, chunk)
        try:
            if name in bad:
                raise ValueError(bad[name])
            array[key]
        except Exception as error:
            yield Damage(path, f"cannot be read: {first_line(error, 200)}", key, (name,))


def _check_chain(
    present: set[str], group: str, path: str, array: zarr.Array[Any], key: tuple[int, int], num_rows: int | None
) -> Iterator[Damage]:
    """Check the chunks of one chain; `num_rows` of its third dimension are to be there, all of them where it is None."""
    for chunk in _chunks(array, key):
        name = _key(array, group, path, chunk)
        region = tuple(slice(i * n, min((i + 1) * n, size)) for i, n, size in _boxes(array, chunk))
        expected = region[2].stop - region[2].start if num_rows is None else num_rows - region[2].start
        if name not in present:
            if expected > 0:
                where = f"{_dims(array)[2]} {region[2].start}"
                yield Damage(path, f"chunk {name} (from {where}) is missing", key, (name,))
            continue
        try:
            values = np.asarray(array[region])[key[0] - region[0].start, key[1] - region[1].start]
        except Exception as error:
            yield Damage(path, f"chunk {name} cannot be read: {first_line(error, 200)}", key, (name,))
            continue
        if expected <= 0:
            continue
        where = f"{_dims(array)[2]} {region[2].start}"
        rows = values[:expected].reshape(min(expected, len(values)), -1)
        if np.isinf(rows).any():
            yield Damage(path, f"chunk {name} (from {where}) holds infinite values", key, (name,))
        elif num_rows is not None and np.isnan(rows).all(axis=1).any():
            first = region[2].start + int(np.argmax(np.isnan(rows).all(axis=1)))
            yield Damage(path, f"chunk {name} has no values at {_dims(array)[2]} {first}", key, (name,))


def _check_fixed(present: set[str], group: str, path: str, array: zarr.Array[Any]) -> Iterator[Damage]:
    for chunk in np.ndindex(*_grid(array)):
        name = _key(array, group, path, chunk)
        if name not in present:
            # Other writers leave out chunks of nothing but zeros; with our fill values every chunk is written.
            fill = array.metadata.fill_value
            if not (np.issubdtype(type(fill), np.number) and fill == 0):
                yield Damage(path, f"chunk {name} is missing", keys=(name,))
            continue
        region = tuple(slice(i * n, min((i + 1) * n, size)) for i, n, size in _boxes(array, chunk))
        try:
            values = np.asarray(array[region])
        except Exception as error:
            yield Damage(path, f"chunk {name} cannot be read: {first_line(error, 200)}", keys=(name,))
            continue
        if values.dtype.kind == "f" and np.isinf(values).any():
            yield Damage(path, f"chunk {name} holds infinite values", keys=(name,))


def _grid(array: zarr.Array[Any]) -> tuple[int, ...]:
    return tuple(-(-size // chunk) for size, chunk in zip(array.shape, array.chunks, strict=True))


def _chunks(array: zarr.Array[Any], key: tuple[int, int]) -> Iterator[tuple[int, ...]]:
    for rest in itertools.product(*(range(n) for n in _grid(array)[2:])):
        yield (*(k // n for k, n in zip(key, array.chunks[:2], strict=True)), *rest)


def _boxes(array: zarr.Array[Any], chunk: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    return zip(chunk, array.chunks, array.shape, strict=True)


def _key(array: zarr.Array[Any], group: str, path: str, chunk: tuple[int, ...]) -> str:
    encoded = array.metadata.encode_chunk_key(chunk)
    return "/".join(part for part in (group, path, encoded) if part)
