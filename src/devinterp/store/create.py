"""Create the store of a run: every group and array at once, with the data that are known beforehand."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.sync import sync  # the only way to ask a store object a question from synchronous code

from devinterp import schema
from devinterp.store.layout import ArraySpec, RunLayout, array_specs


def create(store: Store, layout: RunLayout, attrs: Mapping[str, Any], *, group: str = "") -> zarr.Group:
    """Create the whole hierarchy of a run and write its fixed data.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Where to; nothing may be there yet.
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
    root = zarr.open_group(
        store,
        path=group,
        mode="w-",
        zarr_format=3,
        attributes={"schema_version": schema.SCHEMA_VERSION, "coordinates": "draw_step num_moving", **attrs},
    )
    specs = array_specs(layout)
    for name in dict.fromkeys(parent for spec in specs for parent in _parents(spec.path)):
        root.create_group(name, attributes=_group_attrs(name, layout))
    for spec in specs:
        create_array(root, spec)
    consolidate(store, group)
    return root


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
        # Level 1: losses hardly compress (about 11 %), so a higher level only costs time.
        compressors=[ZstdCodec(level=1), Crc32cCodec()],
    )
    if spec.data is not None:
        array[...] = spec.data
    return array


def consolidate(store: Store, group: str = "") -> None:
    """Write the consolidated metadata that make opening fast; call again whenever the hierarchy or its attributes change."""
    with warnings.catch_warnings():
        # zarr warns that consolidated metadata are not yet in the format's specification; every reader falls back.
        warnings.filterwarnings("ignore", message="Consolidated metadata")
        zarr.consolidate_metadata(store, path=group or None, zarr_format=3)


def is_empty(store: Store) -> bool:
    """Say whether a store holds nothing."""
    return sync(store.is_empty(""))


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[: n + 1]) for n in range(len(parts))]
