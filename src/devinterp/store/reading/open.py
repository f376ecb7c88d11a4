"""Open a store as a lazy `xarray.DataTree`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import xarray as xr
from zarr.abc.store import Store

from devinterp import schema
from devinterp.errors import StoreError
from devinterp.run_tree import RunTree
from devinterp.runs import EAGER_BYTES
from devinterp.store import keys
from devinterp.store.location import StoreLike, below, describe, resolve
from devinterp.store.reading.open_study import open_runs
from devinterp.store.reading.stored_array import open_small, size_of
from devinterp.store.reading.study_table import table_of
from devinterp.store.reading.v2 import is_v2, open_v2
from devinterp.store.reading.validate import inspect


def open(  # noqa: A001  # the name users expect: devinterp.open(path)
    location: StoreLike,
    *,
    group: str | None = None,
    chunks: Mapping[str, int] | str | None = "stored",
    eager_bytes: int = EAGER_BYTES,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.DataTree:
    """Open the store of a run, or of several, as a lazy tree.

    Nothing but coordinates is read. A small store has no Dask chunks: what is used is then read at once and kept, and analyses
    return numbers. A larger one has, and its analyses stay lazy.

    Parameters
    ----------
    location : str, path or zarr.abc.store.Store
        A path, a URL for fsspec, or a store object. Stores that DevInterp 2 wrote are recognised.
    group : str, optional
        Path of a sub-tree.
    chunks : mapping of str to int, "stored", "auto" or None, default: "stored"
        Dask chunks by dimension, as stored, or chosen by Dask; None for lazily read arrays without Dask.
    eager_bytes : int, default: 256 MiB
        With ``chunks="stored"``: up to this size of all arrays together there are no Dask chunks; 0 for chunks in any case.
    storage_options : mapping, optional
        Passed to fsspec; only for URLs.

    Returns
    -------
    xarray.DataTree
        As described in ``docs/schema.md``.

    Raises
    ------
    StoreError
        If there is no store, or one that neither this version of the package nor DevInterp 2 wrote.
    """
    store = resolve(location, read_only=True, storage_options=storage_options)
    sizes: Any = {} if chunks == "stored" else chunks
    try:
        if group is None and chunks in ("stored", None):
            attrs = keys.get_first_attrs(store)
            if schema.STUDY in attrs:
                tree = open_runs(store, table_of(attrs[schema.STUDY]), attrs, _place_of_runs(location, storage_options))
                _check_version(tree, location)
                return tree
        inspect(store)
        if is_v2(store):
            return RunTree.of(open_v2(store, chunks=sizes))
        with warnings.catch_warnings():
            # Without consolidated metadata opening is slower; a store whose creation was cut off is refused below.
            warnings.filterwarnings("ignore", message="Failed to open Zarr store with consolidated metadata")
            small = open_small(store, group) if chunks in ("stored", None) else None
            if small is None or (chunks == "stored" and size_of(small) > eager_bytes):
                tree = xr.open_datatree(store, engine="zarr", group=group, chunks=sizes)  # type: ignore[arg-type]
            else:
                tree = small
    except StoreError as error:
        raise StoreError(f"cannot open {describe(location)} as a store: {error}") from error
    except Exception as error:  # broken metadata give errors of many kinds
        kind = type(error).__name__
        raise StoreError(f"cannot open {describe(location)} as a store: {kind}: {error}") from error
    _check_version(tree, location)
    return RunTree.of(tree)


def _place_of_runs(location: StoreLike, storage_options: Mapping[str, Any] | None) -> Callable[[str], Store]:
    return lambda name: resolve(below(location, name), read_only=True, storage_options=storage_options)


def _check_version(tree: xr.DataTree, location: StoreLike) -> None:
    runs = schema.runs(tree)
    if not runs:
        raise StoreError(
            f"{describe(location)} holds no sampling run: its attributes lack `schema_version`. Expected a store written by "
            "`sample(..., output_path=...)`."
        )
    for run in runs.values():
        version = run.attrs["schema_version"]
        if version not in schema.READABLE_VERSIONS:
            raise StoreError(
                f"{describe(location)} has schema version {version!r}; this version of devinterp reads "
                f"{' and '.join(map(str, schema.READABLE_VERSIONS))}: update devinterp."
            )
