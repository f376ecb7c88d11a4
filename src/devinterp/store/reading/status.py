"""How far each chain of a stored run is."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.api.asynchronous import open_array
from zarr.core.array import AsyncArray

from devinterp import schema
from devinterp.errors import StoreError
from devinterp.store import keys
from devinterp.store.arrays.chunk_codec import decode, is_plain
from devinterp.store.reading.validate import bad_strings, inspect_node
from devinterp.types import ChainKey

#: What stands in cells that cannot be read.
_DEFAULTS = {"state": schema.PENDING, "steps_done": 0, "error": ""}


@dataclass(frozen=True)
class Status:
    """How far each chain of a run is; a chain whose cells cannot be read counts as not begun.

    Parameters
    ----------
    state : numpy.ndarray
        One of `devinterp.schema.STATES`, ``(restriction, chain)``.
    steps_done : numpy.ndarray
        Number of stored steps, ``(restriction, chain)``.
    error : numpy.ndarray
        Why a chain diverged, ``(restriction, chain)``; else empty.
    """

    state: np.ndarray
    steps_done: np.ndarray
    error: np.ndarray

    def pending(self, num_steps: int) -> dict[ChainKey, int]:
        """Return the number of stored steps of every chain that is not at its end.

        A chain is at its end when it diverged, or has finished all of `num_steps`.
        """
        pending = {}
        for key in np.ndindex(self.state.shape):
            steps_done, state = int(self.steps_done[key]), str(self.state[key])
            if state == schema.DIVERGED or (state == schema.FINISHED and steps_done == num_steps):
                continue
            pending[key] = min(max(steps_done, 0), num_steps)
        return pending


def read_status(store: Store, group: str = "", *, chains: Collection[ChainKey] | None = None) -> Status:
    """Return how far each chain of a run is.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    group : str, default: ""
        Where the run is in it.
    chains : collection of (int, int), optional
        Chains to read, so that what this costs does not grow with the run; others seem not to have begun.

    Raises
    ------
    StoreError
        If the run has no status, or one whose arrays do not fit each other.
    """
    paths = {name: f"{group}/{schema.STATUS}/{name}".strip("/") for name in _DEFAULTS}
    read = keys.get_jsons(store, [keys.metadata_key(path) for path in paths.values()])
    nodes = {name: node or {} for name, node in zip(paths, read, strict=True)}
    for name, path in paths.items():
        if nodes[name]:  # the array's own metadata decide how it is read: consolidated ones may differ
            inspect_node(path, nodes[name])
    in_files = all(_is_in_files(store, name, node) for name, node in nodes.items())
    if in_files:
        shapes = {name: tuple(node["shape"]) for name, node in nodes.items()}
    else:
        arrays = dict(zip(paths, keys.at_once(lambda path: _open(store, path), paths.values()), strict=True))
        shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or len(shapes["state"]) != 2:
        raise StoreError(f"the arrays of `{schema.STATUS}` must be (restriction, chain); their shapes are {shapes}.")
    if chains is None:
        places = tuple(map(np.arange, shapes["state"]))
    else:
        places = tuple(np.unique(numbers) for numbers in zip(*chains, strict=True))
    cells = {name: np.full(shape, _DEFAULTS[name], dtype=object) for name, shape in shapes.items()}
    if in_files:
        for name, path in paths.items():
            _read_files(store, path, nodes[name], places, out=cells[name])
    else:
        _read_arrays(store, arrays, nodes, places, out=cells)
    return Status(**cells)


def _is_in_files(store: Store, name: str, node: Mapping[str, Any]) -> bool:
    """Return whether an array of the status is as this package writes it, in files."""
    wanted = "int64" if isinstance(_DEFAULTS[name], int) else "string"
    return node.get("node_type") == "array" and node["data_type"] == wanted and is_plain(store, node)


def _read_files(
    store: Store, path: str, node: Mapping[str, Any], places: tuple[np.ndarray, ...], *, out: np.ndarray
) -> None:
    """Read cells of an array, leaving out those of damaged chunks; without zarr, which takes longer by its event loop."""
    lengths = node["chunk_grid"]["configuration"]["chunk_shape"]
    dtype = np.dtype(object if node["data_type"] == "string" else node["data_type"])
    of_chunk: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for cell in _cells(places):
        of_chunk.setdefault(tuple(k // n for k, n in zip(cell, lengths, strict=True)), []).append(cell)
    chunk_keys = ["/".join([path, "c", *map(str, chunk)]) for chunk in of_chunk]
    for cells, key, content in zip(of_chunk.values(), chunk_keys, keys.get_many(store, chunk_keys), strict=True):
        with suppress(StoreError):
            values = None if content is None else decode(content, node, dtype, key).reshape(lengths)
            for cell in cells:
                within = tuple(k % n for k, n in zip(cell, lengths, strict=True))
                out[cell] = node["fill_value"] if values is None else values[within]


def _read_arrays(
    store: Store,
    arrays: Mapping[str, AsyncArray[Any]],
    nodes: Mapping[str, dict[str, Any]],
    places: tuple[np.ndarray, ...],
    *,
    out: Mapping[str, np.ndarray],
) -> None:
    """Read cells of arrays through zarr, leaving out what cannot be read."""
    bad_chunks = {name: _bad_chunks(store, array, nodes[name], places) for name, array in arrays.items()}
    values = keys.at_once(lambda name: _read(arrays[name], bad_chunks[name], places), arrays)
    for (name, array), value in zip(arrays.items(), values, strict=True):
        if value is not None:
            out[name][np.ix_(*places)] = value.astype(object)
        else:
            _read_cells(zarr.Array(array), bad_chunks[name], places, out=out[name])


async def _open(store: Store, path: str) -> AsyncArray[Any]:
    try:
        return await open_array(store=store, path=path, mode="r", zarr_format=3)
    except Exception as error:  # zarr raises errors of many kinds
        raise StoreError(f"the store has no readable `{path}`: {error}") from error


async def _read(
    array: AsyncArray[Any], bad_chunks: Collection[str], places: tuple[np.ndarray, ...]
) -> np.ndarray | None:
    """Return what is at some places of an array, None where that is damaged somewhere."""
    if not bad_chunks:
        with suppress(Exception):
            return np.asarray(await array.get_orthogonal_selection(places))
    return None


def _bad_chunks(
    store: Store, array: AsyncArray[Any], node: dict[str, Any], places: tuple[np.ndarray, ...]
) -> Collection[str]:
    """Return the keys of the chunks at some places that must not be decoded."""
    chunks = {tuple(k // n for k, n in zip(key, array.chunks, strict=True)) for key in _cells(places)}
    return bad_strings(store, array.path, node, chunks)


def _read_cells(
    array: zarr.Array[Any], bad_chunks: Collection[str], places: tuple[np.ndarray, ...], *, out: np.ndarray
) -> None:
    """Read an array cell by cell, leaving out what cannot be read."""
    for key in _cells(places):
        chunk = tuple(k // n for k, n in zip(key, array.chunks, strict=True))
        if f"{array.path}/{array.metadata.encode_chunk_key(chunk)}" not in bad_chunks:
            with suppress(Exception):
                out[key] = np.asarray(array[key])[()]


def _cells(places: tuple[np.ndarray, ...]) -> Iterator[tuple[int, ...]]:
    return itertools.product(*(at.tolist() for at in places))


def read_attrs(store: Store, group: str = "") -> dict[str, Any]:
    """Return the attributes of a group in any of zarr's formats; empty where there is no group."""
    try:
        return dict(zarr.open_group(store, path=group, mode="r", zarr_format=3).attrs)
    except (FileNotFoundError, KeyError):
        return {}
