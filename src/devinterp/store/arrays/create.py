"""Create the groups and arrays of a run in a store, with the data that are known beforehand, and enlarge them later."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore, MemoryStore

from devinterp import schema
from devinterp.store import keys
from devinterp.store.arrays.layout import RunLayout
from devinterp.store.arrays.specs import MAX_WHOLE_BYTES, ArraySpec, array_specs
from devinterp.store.lock import LOCK
from devinterp.store.writing.checkpoints import RESUME

#: Groups of a run's store that are no part of the tree.
_OUTSIDE_TREE = (LOCK, RESUME)
#: Names in the root of a store whose creation was cut off.
_NAMES = {schema.TRACE, schema.OBSERVABLES, schema.METRICS, schema.STATUS, schema.RECORDINGS}
_NAMES |= {*_OUTSIDE_TREE, keys.METADATA}
_NAMES |= {schema.RESTRICTION, schema.CHAIN, schema.DRAW, "draw_step", "num_moving"}

#: Arrays of which more is known beforehand are written where they belong, chunk by chunk.
_MOST_BYTES_COPIED = 2**18

#: Losses hardly compress (about 11 %), so a higher level only costs time.
_LEVEL = 1
#: This level leaves them as they are. Unpacking takes ten times as long as reading, which is felt where arrays are read as a
#: whole and saves little there.
_LEVEL_OF_SMALL_LOSSES = -1


def create_run(store: Store, layout: RunLayout, attrs: Mapping[str, Any], *, group: str = "") -> zarr.Group:
    """Create every group and array of a run, and write the data that are known beforehand.

    The root's attributes are written last, so that a store holds either a complete run or none.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store; it must be empty (`is_empty`).
    layout : RunLayout
        The run.
    attrs : mapping
        Attributes of the root beside ``schema_version``: ``config`` and ``provenance``.
    group : str, optional
        Path of the run in the store, where several runs share one.

    Returns
    -------
    zarr.Group
        The run's root.
    """
    specs = array_specs(layout)
    keys.make_groups(store, {"", *_parents(group), group})
    keys.update_attrs_of(store, _attrs_of_groups(specs, layout, group))
    create_arrays(store, specs, group)
    consolidate(
        store, group, attrs={"schema_version": schema.SCHEMA_VERSION, "coordinates": "draw_step num_moving", **attrs}
    )
    return zarr.open_group(store, path=group, mode="r+", zarr_format=3)


def grow_run(store: Store, layout: RunLayout, attrs: Mapping[str, Any]) -> zarr.Group:
    """Enlarge a run's store for more restrictions, chains, draws or observables; stored data stay as they are.

    The root's attributes are written last: until then a reader sees the run as it was before. If the process is killed,
    calling this again completes it.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    layout : RunLayout
        The enlarged run: at least as large in every dimension, what is stored first along each.
    attrs : mapping
        New attributes of the root.

    Returns
    -------
    zarr.Group
        The run's root.
    """
    root = zarr.open_group(store, mode="r+", zarr_format=3, use_consolidated=False)
    specs = array_specs(layout)
    keys.update_attrs_of(store, _attrs_of_groups(specs, layout))
    stored = {spec.path: root.get(spec.path) for spec in specs}
    create_arrays(store, [spec for spec in specs if stored[spec.path] is None])
    for spec in specs:
        array = stored[spec.path]
        if isinstance(array, zarr.Array) and array.shape != spec.shape:
            before = array.shape
            array.resize(spec.shape)
            if spec.data is not None:
                for region in _new_regions(before, spec.shape):
                    array[region] = np.asarray(spec.data)[region]
    consolidate(store, attrs={"schema_version": schema.SCHEMA_VERSION, **attrs})
    return zarr.open_group(store, mode="r+", zarr_format=3)


def _new_regions(before: tuple[int, ...], after: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Yield the regions of an enlarged array that it did not have before, one for each dimension that grew."""
    for axis, (old, new) in enumerate(zip(before, after, strict=True)):
        if new > old:
            yield (
                *(slice(0, n) for n in before[:axis]),
                slice(old, new),
                *(slice(0, n) for n in after[axis + 1 :]),
            )


def _attrs_of_groups(specs: Iterable[ArraySpec], layout: RunLayout, group: str = "") -> dict[str, dict[str, Any]]:
    """Return the attributes of the groups that some arrays are in, by their path."""
    names = dict.fromkeys(parent for spec in specs for parent in _parents(spec.path))
    return {_join(group, name): _group_attrs(name, layout) for name in names}


def _group_attrs(path: str, layout: RunLayout) -> dict[str, Any]:
    if path == schema.OBSERVABLES:
        return {"names": list(layout.observables)}  # zarr lists groups in any order
    if path.startswith(f"{schema.OBSERVABLES}/"):
        return {"coordinates": "sequence_id"}  # how xarray finds coordinates that are no index
    if path == schema.RECORDINGS:
        return {"names": list(layout.recordings)}
    if path.startswith(f"{schema.RECORDINGS}/"):
        recording = layout.recordings[path.partition("/")[2]]
        others = [name for name, (dims, _) in recording.coords.items() if dims != (name,)]
        return {**recording.settings, **({"coordinates": " ".join(others)} if others else {})}
    return {}


def _codecs(spec: ArraySpec) -> tuple[ZstdCodec, Crc32cCodec]:
    """Return how the chunks of an array are written: zstd-compressed, with a checksum."""
    is_small = np.dtype(spec.dtype).kind == "f" and spec.num_bytes <= MAX_WHOLE_BYTES
    return ZstdCodec(level=_LEVEL_OF_SMALL_LOSSES if is_small else _LEVEL), Crc32cCodec()


def create_arrays(store: Store, specs: Iterable[ArraySpec], group: str = "") -> None:
    """Create arrays, zstd-compressed and with a checksum in every chunk, and write the data of those whose specs have them.

    Small arrays are made in memory and then copied, key by key: zarr asks a store several questions for each new array, each of
    which takes as long as writing it.
    """
    small: list[ArraySpec] = []
    others: list[ArraySpec] = []
    for spec in specs:
        is_small = spec.data is None or np.asarray(spec.data).nbytes <= _MOST_BYTES_COPIED
        (small if is_small and not isinstance(store, MemoryStore) else others).append(spec)
    keys.at_once(lambda spec: _create_array(store, spec, _join(group, spec.path)), others)
    if small:
        _create_by_copying(store, small, group)


def _create_by_copying(store: Store, small: Sequence[ArraySpec], group: str) -> None:
    in_memory = MemoryStore()
    keys.at_once(lambda spec: _create_array(in_memory, spec, spec.path), small)
    _remove_arrays(store, small, group)
    paths = tuple(f"{spec.path}/" for spec in small)  # and not their groups, which have attributes in the store
    made = {_join(group, key): value for key, value in keys.contents(in_memory).items() if key.startswith(paths)}
    for is_metadata in (True, False):  # some stores take no chunk of an array that they do not know
        keys.put_many(store, {key: value for key, value in made.items() if key.endswith(keys.METADATA) == is_metadata})


async def _create_array(store: Store, spec: ArraySpec, path: str) -> None:
    array = await zarr.api.asynchronous.create_array(
        store,
        name=path,
        shape=spec.shape,
        chunks=tuple(max(1, n) for n in spec.chunks),
        dtype=spec.dtype,
        fill_value=spec.fill_value,
        dimension_names=spec.dims,
        attributes=dict(spec.attrs),
        compressors=_codecs(spec),
        zarr_format=3,
        overwrite=True,
    )
    if spec.data is not None:
        await array.setitem(..., np.asarray(spec.data))


def _remove_arrays(store: Store, specs: Sequence[ArraySpec], group: str) -> None:
    """Remove what is left of some arrays where their creation was cut off."""
    split = {spec.path: spec.path.rpartition("/") for spec in specs}
    parents = {parent for parent, _, _ in split.values()}
    there = {parent: set(keys.children(store, _join(group, parent))) for parent in parents}
    for path, (parent, _, name) in split.items():
        if name in there[parent]:
            keys.delete_below(store, f"{_join(group, path)}/")


def stored_size(values: np.ndarray, spec: ArraySpec) -> int:
    """Return the bytes that values take as one chunk of an array."""
    store = MemoryStore()
    array = zarr.create_array(
        store, name="array", shape=values.shape, chunks=values.shape, dtype=values.dtype, compressors=_codecs(spec)
    )
    array[...] = values
    return sum(size for key, size in keys.sizes(store).items() if not key.endswith(keys.METADATA))


def consolidate(
    store: Store, group: str = "", *, attrs: Mapping[str, Any] | None = None, with_null: bool = False
) -> None:
    """Write consolidated metadata, which make opening fast, and attributes of the root, in one write.

    Call it whenever arrays, groups or their attributes change. The lock and checkpoints are left out, and so is the null run
    but for `with_null`: one of fewer draws than the run would not fit below it in a tree.
    """
    root = keys.get_json(store, keys.metadata_key(group)) or keys.NEW_GROUP
    root = {**root, "attributes": {**root.get("attributes", {}), **(attrs or {})}}
    if store.supports_consolidated_metadata:
        outside = _OUTSIDE_TREE if with_null else (*_OUTSIDE_TREE, schema.NULL)
        nodes = dict(_nodes(store, group, outside=outside))
        root["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": nodes}
    keys.put_json(store, keys.metadata_key(group), root)


def _nodes(store: Store, root: str, path: str = "", *, outside: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the metadata of everything below a node, by its path below the root."""
    names = sorted(keys.children(store, _join(root, path)))
    inside = [_join(path, name) for name in names if path not in ("", schema.NULL) or name not in outside]
    found = keys.get_jsons(store, [keys.metadata_key(_join(root, below)) for below in inside])
    for below, metadata in zip(inside, found, strict=True):
        if metadata is None:
            continue
        if metadata.get("node_type") == "group":
            metadata.pop("consolidated_metadata", None)
            yield below, metadata
            yield from _nodes(store, root, below, outside=outside)
        else:
            yield below, metadata


def is_empty(store: Store) -> bool:
    """Say whether a store holds nothing but, perhaps, a run whose creation was cut off; creates nothing."""
    if isinstance(store, LocalStore) and not store.root.exists():
        return True  # listing its keys would make the directory
    if keys.get_attrs(store, ""):
        return False
    names = {name for name in keys.children(store, "") if not keys.is_leftover(name)}
    return names <= _NAMES and all(name in (keys.METADATA, LOCK) or _is_node(store, name) for name in names)


def _is_node(store: Store, name: str) -> bool:
    """Say whether a name is a group or an array, or a directory that was to become one."""
    if keys.get_json(store, keys.metadata_key(name)) is not None:
        return True
    return all(keys.is_leftover(key) for key in keys.list_keys(store, f"{name}/"))


def _join(group: str, name: str) -> str:
    return f"{group}/{name}" if group and name else group or name


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]
