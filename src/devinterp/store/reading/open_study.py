"""Open the runs of a study fast: those of one layout share what was found out about the first of them."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import xarray as xr
from zarr.abc.store import Store

from devinterp import schema
from devinterp.runs import EAGER_BYTES
from devinterp.store import keys
from devinterp.store.reading.stored_array import StoredArray, open_small, read_chunks, read_when_used, size_of
from devinterp.store.reading.study_table import StudyTable
from devinterp.store.reading.validate import inspect_run

_CONSOLIDATED = b'"consolidated_metadata"'
#: Attribute by which zarr's readers know coordinates that are no index; xarray takes it away.
_COORDINATES = "coordinates"


@dataclass(frozen=True)
class _Template:
    """An opened run, and what another of the same layout needs.

    Parameters
    ----------
    datasets : mapping of str to xarray.Dataset
        By path of the group in the run.
    nodes : mapping of str to mapping
        Metadata of its arrays, by their path in the run.
    coordinates : tuple of str
        Paths of arrays whose values a run must share.
    values : tuple of bytes
        Stored chunks of these.
    """

    datasets: Mapping[str, xr.Dataset]
    nodes: Mapping[str, Mapping[str, Any]]
    coordinates: tuple[str, ...]
    values: tuple[tuple[bytes | None, ...], ...]


def open_runs(store: Store, table: StudyTable, attrs: Mapping[str, Any], place: Callable[[str], Store]) -> xr.DataTree:
    """Return the runs of a study that have begun as one lazy tree.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    table : StudyTable
        The table in its root.
    attrs : mapping
        Attributes of its root.
    place : callable
        Returns the store of a run, by its name.

    Raises
    ------
    StoreError
        If a run's metadata cannot be used.
    """
    with _collector_paused():
        return xr.DataTree.from_dict(_groups(store, table, attrs, place))


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Pause the garbage collector while many objects are made of which none is garbage: it takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _groups(
    store: Store, table: StudyTable, attrs: Mapping[str, Any], place: Callable[[str], Store]
) -> dict[str, xr.Dataset]:
    """Return every group of a study by its path."""
    names = list(table.runs)
    contents = keys.get_many(store, [keys.metadata_key(name) for name in names])
    templates: dict[bytes, list[_Template]] = {}
    groups: dict[str, xr.Dataset] = {"/": xr.Dataset(attrs=dict(attrs))}
    for name, content in zip(names, contents, strict=True):
        node = {} if content is None else json.loads(content)
        if not isinstance(node, dict) or not schema.is_run_attrs(node.get("attributes", {})):
            continue
        assert content is not None
        known = templates.setdefault(content.partition(_CONSOLIDATED)[2], [])
        template = next(
            (each for each in known if _values(store, name, each.coordinates, each.nodes) == each.values), None
        )
        if template is None:
            template = _opened(store, name, node, place(name))
            if template.nodes:
                known.append(template)
            datasets = template.datasets
        else:
            datasets = _like(template, store, name, node["attributes"])
        groups |= {f"/{name}/{path}".rstrip("/"): dataset for path, dataset in datasets.items()}
    return groups


def _opened(store: Store, name: str, node: Mapping[str, Any], own: Store) -> _Template:
    """Open a run through xarray."""
    inspect_run(store, name)
    # As a store of its own: the metadata of the whole study would be read for each run.
    tree = open_small(own)
    if size_of(tree) > EAGER_BYTES:
        tree = xr.open_datatree(own, engine="zarr", chunks={})  # type: ignore[arg-type]
        nodes: dict[str, Any] = {}
    else:
        nodes = dict((node.get("consolidated_metadata") or {}).get("metadata", {}))
    groups = {path: each.to_dataset(inherit=False) for path, each in schema.groups_of(tree)}
    coordinates = []
    for path, dataset in groups.items():
        for key, variable in dataset.variables.items():
            full = f"{path}/{key}".strip("/")
            if full not in nodes:
                nodes = {}  # opened otherwise than its metadata say: no model for others
            elif key in dataset.coords:
                variable.load()  # once for all runs that share it
                coordinates.append(full)
    return _Template(groups, nodes, tuple(coordinates), _values(store, name, coordinates, nodes) if nodes else ())


def _values(
    store: Store, name: str, coordinates: Any, nodes: Mapping[str, Mapping[str, Any]]
) -> tuple[tuple[bytes | None, ...], ...]:
    return tuple(read_chunks(store, f"{name}/{path}", nodes[path]) for path in coordinates)


def _like(template: _Template, store: Store, name: str, attrs: Mapping[str, Any]) -> dict[str, xr.Dataset]:
    """Return the groups of a run of the same layout, its arrays read when they are asked for."""
    datasets = {}
    for path, dataset in template.datasets.items():
        data = {}
        for key, variable in dataset.data_vars.items():
            full = f"{path}/{key}".strip("/")
            data[key] = read_when_used(StoredArray(store, f"{name}/{full}", template.nodes[full], variable.dtype))
        datasets[path] = dataset.copy(deep=False, data=data)
    datasets[""].attrs = {key: value for key, value in attrs.items() if key != _COORDINATES}
    return datasets
