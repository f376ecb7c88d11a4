"""How far each chain of a stored run is."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from xarray.core import indexing
from zarr.abc.store import Store
from zarr.api.asynchronous import open_array
from zarr.core.array import AsyncArray

from devinterp import schema
from devinterp.errors import StoreError
from devinterp.store import keys
from devinterp.store.arrays.chunk_codec import is_plain
from devinterp.store.reading.stored_array import StoredArray
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
    if all(_is_in_files(store, name, node) for name, node in nodes.items()):
        places = _places({name: tuple(node["shape"]) for name, node in nodes.items()}, chains)
        with suppress(StoreError):  # of a damaged chunk: below it is left out
            return Status(**{name: _from_files(store, paths[name], nodes[name], name, places) for name in paths})
    arrays = dict(zip(paths, keys.at_once(lambda path: _open(store, path), paths.values()), strict=True))
    places = _places({name: array.shape for name, array in arrays.items()}, chains)
    bad_chunks = {name: _bad_chunks(store, array, nodes[name], places) for name, array in arrays.items()}
    values = keys.at_once(lambda name: _read(arrays[name], bad_chunks[name], places), arrays)
    cells = {}
    for (name, array), value in zip(arrays.items(), values, strict=True):
        cells[name] = np.full(array.shape, _DEFAULTS[name], dtype=object)
        if value is not None:
            cells[name][np.ix_(*places)] = value.astype(object)
        else:
            _read_cells(zarr.Array(array), bad_chunks[name], places, out=cells[name])
    return Status(**cells)


def _places(shapes: Mapping[str, tuple[int, ...]], chains: Collection[ChainKey] | None) -> tuple[np.ndarray, ...]:
    """Return along each dim where the cells to read are."""
    if len(set(shapes.values())) > 1 or len(shapes["state"]) != 2:
        raise StoreError(f"the arrays of `{schema.STATUS}` must be (restriction, chain); their shapes are {shapes}.")
    if chains is None:
        return tuple(map(np.arange, shapes["state"]))
    return tuple(np.unique(numbers) for numbers in zip(*chains, strict=True))


def _is_in_files(store: Store, name: str, node: Mapping[str, Any]) -> bool:
    """Return whether an array of the status is as this package writes it, in files."""
    wanted = "int64" if isinstance(_DEFAULTS[name], int) else "string"
    return node.get("node_type") == "array" and node["data_type"] == wanted and is_plain(store, node)


def _from_files(
    store: Store, path: str, node: Mapping[str, Any], name: str, places: tuple[np.ndarray, ...]
) -> np.ndarray:
    """Return an array of the status, read without zarr's event loop, which takes longer than the files."""
    dtype = np.dtype(object if node["data_type"] == "string" else node["data_type"])
    array = StoredArray(store, path, node, dtype)
    cells = np.full(array.shape, _DEFAULTS[name], dtype=object)
    cells[np.ix_(*places)] = array[indexing.OuterIndexer(places)]
    return cells


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
