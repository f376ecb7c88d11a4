"""Create the store of a run: every group and array, with the data that are known beforehand; make it grow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore, MemoryStore

from devinterp import schema
from devinterp.store import keys as raw
from devinterp.store.arrays.layout import ArraySpec, RunLayout, array_specs
from devinterp.store.lock import LOCK
from devinterp.store.writing.checkpoints import RESUME

#: Groups of a run's store that are no part of the tree.
_APART = (LOCK, RESUME)
#: What may lie in the root of a store that a killed process had begun to create.
_OURS = {schema.TRACE, schema.OBSERVABLES, schema.METRICS, schema.STATUS, *_APART, raw.METADATA}
_OURS |= {schema.RESTRICTION, schema.CHAIN, schema.DRAW, "draw_step", "num_moving"}

#: Of every array. Level 1: losses hardly compress (about 11 %), so a higher level only costs time.
CODECS = (ZstdCodec(level=1), Crc32cCodec())


def create_run(store: Store, layout: RunLayout, attrs: Mapping[str, Any], *, group: str = "") -> zarr.Group:
    """Create the whole hierarchy of a run and write its fixed data.

    The root's attributes are written last, so that a store is either a whole run or none.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Where to; nothing may be there yet (`is_empty`).
    layout : RunLayout
        The run.
    attrs : mapping
        Attributes of the root beside ``schema_version``: ``config`` and ``provenance``.
    group : str, optional
        Path of the run inside the store, for runs that are siblings in one tree.

    Returns
    -------
    zarr.Group
        The run's root.
    """
    root = zarr.open_group(store, path=group, mode="a", zarr_format=3)
    specs = array_specs(layout)
    for name in dict.fromkeys(parent for spec in specs for parent in _parents(spec.path)):
        raw.update_attrs(store, _join(group, name), _group_attrs(name, layout))
    for spec in specs:
        create_array(root, spec)
    consolidate(
        store, group, attrs={"schema_version": schema.SCHEMA_VERSION, "coordinates": "draw_step num_moving", **attrs}
    )
    return zarr.open_group(store, path=group, mode="r+")


def grow_run(store: Store, layout: RunLayout, attrs: Mapping[str, Any]) -> zarr.Group:
    """Make room in a run's store for more restrictions, chains, draws or observables.

    What is there is left as it is. Until the root's attributes are written, at the end, the store is what it was before for
    whoever opens it; if the process is killed, growing again completes it.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    layout : RunLayout
        What it will hold; at least as large in every dimension, with everything old in its place.
    attrs : mapping
        New attributes of the root.

    Returns
    -------
    zarr.Group
        The run's root.
    """
    root = zarr.open_group(store, mode="r+", use_consolidated=False)
    specs = array_specs(layout)
    for name in dict.fromkeys(parent for spec in specs for parent in _parents(spec.path)):
        raw.update_attrs(store, name, _group_attrs(name, layout))
    for spec in specs:
        array = root.get(spec.path)
        if array is None:
            create_array(root, spec)
        elif isinstance(array, zarr.Array) and array.shape != spec.shape:
            before = array.shape
            array.resize(spec.shape)
            if spec.data is not None:
                for region in _new_regions(before, spec.shape):
                    array[region] = np.asarray(spec.data)[region]
    consolidate(store, attrs=attrs)
    return zarr.open_group(store, mode="r+")


def _new_regions(before: tuple[int, ...], after: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Yield what is in the larger of two boxes and not in the smaller, a slab for each dimension that grew."""
    for axis, (old, new) in enumerate(zip(before, after, strict=True)):
        if new > old:
            yield (
                *(slice(0, n) for n in before[:axis]),
                slice(old, new),
                *(slice(0, n) for n in after[axis + 1 :]),
            )


def _group_attrs(path: str, layout: RunLayout) -> dict[str, Any]:
    if path == schema.OBSERVABLES:
        return {"names": list(layout.observables)}  # zarr does not keep the order of groups
    if path.startswith(f"{schema.OBSERVABLES}/"):
        return {"coordinates": "sequence_id"}  # the non-index coordinates, as xarray reads them
    return {}


def create_array(root: zarr.Group, spec: ArraySpec) -> zarr.Array[Any]:
    """Create one array of a run, zstd-compressed and with a checksum in every chunk, and write its data if known."""
    array = root.create_array(
        spec.path,
        shape=spec.shape,
        chunks=tuple(max(1, n) for n in spec.chunks),
        dtype=spec.dtype,
        fill_value=spec.fill_value,
        dimension_names=spec.dims,
        attributes=dict(spec.attrs),
        compressors=CODECS,
        overwrite=True,
    )
    if spec.data is not None:
        array[...] = spec.data
    return array


def stored_size(values: np.ndarray, dtype: Any) -> int:
    """Return the bytes that values take as one chunk of a stored array."""
    store = MemoryStore()
    array = zarr.create_array(
        store, name="array", shape=values.shape, chunks=values.shape, dtype=dtype, compressors=CODECS
    )
    array[...] = values
    return sum(size for key, size in raw.sizes(store).items() if not key.endswith(raw.METADATA))


def consolidate(store: Store, group: str = "", *, attrs: Mapping[str, Any] | None = None) -> None:
    """Write the consolidated metadata that make opening fast, and attributes of the root, in one write.

    Call it whenever the hierarchy or its attributes change. Locks and states of chains are left out.
    """
    root = raw.get_json(store, _join(group, raw.METADATA)) or {"zarr_format": 3, "node_type": "group"}
    root = {**root, "attributes": {**root.get("attributes", {}), **(attrs or {})}}
    if store.supports_consolidated_metadata:
        nodes = dict(_nodes(store, group))
        root["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": nodes}
    raw.put_json(store, _join(group, raw.METADATA), root)


def _nodes(store: Store, root: str, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the metadata of everything below a node, by its path below the root."""
    for name in sorted(raw.children(store, _join(root, path))):
        if not path and name in _APART:
            continue
        below = _join(path, name)
        metadata = raw.get_json(store, _join(_join(root, below), raw.METADATA))
        if metadata is None:
            continue
        if metadata.get("node_type") == "group":
            metadata.pop("consolidated_metadata", None)
            yield below, metadata
            yield from _nodes(store, root, below)
        else:
            yield below, metadata


def is_empty(store: Store) -> bool:
    """Say whether a store holds nothing, or only what a killed process left of creating a run; creates nothing."""
    if isinstance(store, LocalStore) and not store.root.exists():
        return True  # asked for its keys, it would make the directory
    if raw.get_attrs(store, ""):
        return False
    names = {name for name in raw.children(store, "") if not raw.is_leftover(name)}
    return names <= _OURS and all(name in (raw.METADATA, LOCK) or _is_begun(store, name) for name in names)


def _is_begun(store: Store, name: str) -> bool:
    """Say whether what has one of our names is a part of a store, or nothing yet."""
    if raw.get_json(store, f"{name}/{raw.METADATA}") is not None:
        return True
    return all(raw.is_leftover(key) for key in raw.list_keys(store, f"{name}/"))


def _join(group: str, name: str) -> str:
    return f"{group}/{name}" if group and name else group or name


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]
