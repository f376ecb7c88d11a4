"""One array of a store, read when it is asked for: its chunks as files where the store is a directory, else through zarr.

zarr asks its event loop for every chunk, which takes longer than reading one. A study has tens of thousands of small ones.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import cached_property
from io import FileIO
from itertools import product
from typing import Any, final

import numpy as np
import xarray as xr
import zarr
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.abc.store import Store
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import LocalStore

from devinterp import schema
from devinterp.store import keys
from devinterp.store.arrays.chunk_codec import decode, is_plain
from devinterp.store.arrays.specs import MAX_WHOLE_BYTES

#: What xarray notes of variables whose values it decodes.
_DECODED = {"_FillValue", "missing_value", "scale_factor", "add_offset"}


@final
class StoredArray(BackendArray):
    """An array of a store, as xarray reads arrays lazily.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    path : str
        Of the array.
    node : mapping
        Its metadata, validated (`devinterp.store.reading.validate.inspect_node`).
    dtype : numpy.dtype
        What its values are.
    """

    def __init__(self, store: Store, path: str, node: Mapping[str, Any], dtype: np.dtype) -> None:
        self._store, self._path, self._node = store, path, node
        self.shape, self.dtype = tuple(node["shape"]), dtype

    @cached_property
    def _fill_value(self) -> Any:
        """The value of chunks that are not there."""
        metadata = ArrayV3Metadata.from_dict(dict(self._node))
        return metadata.fill_value if self.dtype.kind in "iufb" else str(metadata.fill_value)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> Any:
        # Of larger arrays only the chunks that are asked for are read, through zarr.
        if is_plain(self._store, self._node) and math.prod(self.shape) * self.dtype.itemsize <= MAX_WHOLE_BYTES:
            values = self._chunks_of(key)
            for axis in reversed(range(len(key))):  # from the last, so that numbers do not shift those before
                values = values[(slice(None),) * axis + (key[axis],)]
            return values
        array: Any = zarr.open_array(self._store, path=self._path, mode="r", zarr_format=3)
        return array[key] if all(isinstance(each, int | slice) for each in key) else array.oindex[key]

    def _chunks_of(self, key: tuple[Any, ...]) -> np.ndarray:
        """Return the whole array, of which only the chunks that are asked for have been read."""
        assert isinstance(self._store, LocalStore)
        chunks = tuple(self._node["chunk_grid"]["configuration"]["chunk_shape"])
        asked = (np.atleast_1d(np.arange(size)[each]) for size, each in zip(self.shape, key, strict=True))
        grid = [np.unique(each // length).tolist() for each, length in zip(asked, chunks, strict=True)]
        values = np.empty(self.shape, dtype=self.dtype)
        folder, room = f"{self._store.root}/{self._path}/c/", _Room()
        for place in product(*grid):
            name = "/".join(map(str, place))
            target = values[tuple(slice(k * n, (k + 1) * n) for k, n in zip(place, chunks, strict=True))]
            try:
                with open(folder + name, "rb", buffering=0) as file:  # noqa: PTH123  # paths as objects take as long as reading
                    content = room.read(file)
            except FileNotFoundError:
                target[...] = self._fill_value
                continue
            decoded = decode(content, self._node, self.dtype, f"{self._path}/c/{name}").reshape(chunks)
            is_whole = target.shape == chunks
            target[...] = decoded if is_whole else decoded[tuple(slice(0, size) for size in target.shape)]
        return values


class _Room:
    """Memory into which chunks are read, one after the other: to make it anew for each takes longer than to read one."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.uint8)

    def read(self, file: FileIO) -> np.ndarray:
        """Return the bytes of a file, valid until the next is read."""
        size, read = os.fstat(file.fileno()).st_size, 0
        if size > len(self._memory):
            self._memory = np.empty(size, np.uint8)
        while read < size and (more := file.readinto(self._memory.data[read:size])):
            read += more
        return self._memory[:read]


def open_small(store: Store, group: str | None = None) -> xr.DataTree:
    """Open a store without Dask, its arrays read as files where they are such.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    group : str, optional
        Path of a sub-tree, which is read through zarr.
    """
    if group is not None or not isinstance(store, LocalStore):
        return xr.open_datatree(store, engine="zarr", group=group, chunks=None)  # type: ignore[arg-type]
    # Indexes are made of the values of coordinates, which are files, too.
    tree = xr.open_datatree(store, engine="zarr", chunks=None, create_default_indexes=False)  # type: ignore[arg-type]
    _read_through_files(tree, store)
    indexed: xr.DataTree = tree.map_over_datasets(_with_default_indexes)
    return indexed


def size_of(tree: xr.DataTree) -> int:
    """Return the size in bytes of all arrays of a tree."""
    return sum(variable.nbytes for node in tree.subtree for variable in node.variables.values())


def _read_through_files(tree: xr.DataTree, store: LocalStore) -> None:
    root = keys.get_json(store, keys.METADATA) or {}
    nodes = (root.get("consolidated_metadata") or {}).get("metadata", {})
    for path, group in schema.groups_of(tree):
        for name, variable in group.to_dataset(inherit=False).variables.items():
            full = f"{path}/{name}".strip("/")
            node = nodes.get(full)
            if node is not None and _is_as_stored(variable, node) and is_plain(store, node):
                # In place: building a second tree takes as long as opening one.
                variable.data = read_when_used(StoredArray(store, full, node, variable.dtype))


def _with_default_indexes(dataset: xr.Dataset) -> xr.Dataset:
    """Return a dataset with the indexes that xarray makes when it opens one."""
    plain = {name: coord.variable for name, coord in dataset.coords.items() if coord.dims == (name,)}
    return dataset.assign_coords(xr.Coordinates(plain))


def read_when_used(array: StoredArray) -> Any:
    """Return what a variable holds until its values are used: they are read once then and kept, as xarray does it.

    A copy of the variable keeps them by itself.
    """
    lazy: Any = indexing.LazilyIndexedArray(array)
    return indexing.MemoryCachedArray(indexing.CopyOnWriteArray(lazy))  # type: ignore[no-untyped-call]


def _is_as_stored(variable: xr.Variable, node: Mapping[str, Any]) -> bool:
    """Say whether xarray takes the values of an array as they stand, numbers or text, without decoding or masking any."""
    kind = variable.dtype.kind
    is_same = node.get("data_type") == ("string" if kind in "TO" else variable.dtype.name) and kind in "iufbTO"
    return is_same and variable.shape == tuple(node["shape"]) and not _DECODED.intersection(variable.encoding)


def chunk_keys(path: str, node: Mapping[str, Any]) -> list[str]:
    """Return the keys of all chunks of an array."""
    lengths = node["chunk_grid"]["configuration"]["chunk_shape"]
    grid = [range(-(-size // length)) for size, length in zip(node["shape"], lengths, strict=True)]
    return ["/".join([path, "c", *map(str, place)]) for place in product(*grid)]


def read_chunks(store: Store, path: str, node: Mapping[str, Any]) -> tuple[bytes | None, ...]:
    """Return the bytes of all chunks of an array."""
    return tuple(keys.get_many(store, chunk_keys(path, node)))
