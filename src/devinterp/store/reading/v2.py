"""Open the flat stores that DevInterp 2 wrote as a tree.

The flat layout has one set of variables for one weight restriction: ``sampling_loss_micro`` and ``init_loss`` of the chains,
``loss_<observable>`` and ``input_ids_<observable>``, and ``metrics_<metric>``. It lacks the losses of observables at the
starting weights and the standard error of the initial loss: results that need these are not available from such a store.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.errors import GroupNotFoundError

from devinterp import schema
from devinterp.errors import StoreError
from devinterp.flat_layout import LOSS, METRIC, TOKENS, TRACE_LOSS, TRACE_TOKEN_IDS, TRACE_TOKENS, to_v2
from devinterp.schema import BATCH, CHAIN, DRAW, POSITION, RESTRICTION, SEQUENCE, STEP, TOKEN
from devinterp.store import keys

__all__ = ["from_v2", "is_v2", "open_v2", "to_v2"]


def is_v2(store: Store) -> bool:
    """Say whether DevInterp 2 wrote a store: it has no schema version, but a configuration, and in it a sampler's or losses.

    One that lacks either the sampler's configuration or the losses is incomplete: `open_v2` says what is missing.
    """
    if schema.is_run_attrs(keys.get_first_attrs(store)):  # zarr takes a millisecond for what is below
        return False
    try:
        root = zarr.open_group(store, mode="r")
    except (GroupNotFoundError, FileNotFoundError, KeyError, ValueError):
        return False
    metadata = root.attrs.get("metadata")
    config = metadata.get("config") if isinstance(metadata, Mapping) else None
    if "schema_version" in root.attrs or not isinstance(config, Mapping):
        return False
    return "sampler" in config or TRACE_LOSS in root


def open_v2(store: Store, chunks: Any = None) -> xr.DataTree:
    """Open a store written by DevInterp 2 as a tree of schema version 1, lazily.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Such a store (`is_v2`).
    chunks : mapping, str or None, optional
        Dask chunks in this package's dimension names, ``{}`` for those of the store, or None for arrays without Dask.

    Returns
    -------
    xarray.DataTree
        A run with one restriction, ``"full"``.
    """
    with warnings.catch_warnings():
        # DevInterp 2 did not consolidate its metadata: opening takes some milliseconds more.
        warnings.filterwarnings("ignore", message="Failed to open Zarr store with consolidated metadata")
        flat = xr.open_dataset(store, engine="zarr", chunks={} if isinstance(chunks, Mapping) else chunks)  # type: ignore[arg-type]
    tree = from_v2(flat)
    return tree.chunk(chunks) if isinstance(chunks, Mapping) and chunks else tree


def from_v2(flat: xr.Dataset, *, restriction: str = "full") -> xr.DataTree:
    """Return DevInterp 2's flat layout as a tree of schema version 1, without reading its losses.

    Parameters
    ----------
    flat : xarray.Dataset
        As DevInterp 2 stores it, with its attribute ``metadata``.
    restriction : str, default: "full"
        Name of the sampled weights, which DevInterp 2 did not store.

    Returns
    -------
    xarray.DataTree
        Chains whose last losses are not finite are marked as diverged; all as interrupted if the store is not marked as
        complete.

    Raises
    ------
    StoreError
        If a variable or setting is missing.
    """
    missing = [name for name in (TRACE_LOSS, "init_loss") if name not in flat.variables]
    settings = flat.attrs.get("metadata", {}).get("config", {}).get("sampler")
    if missing or not settings:
        what = ", ".join(missing) or "its attribute metadata.config.sampler"
        raise StoreError(
            f"a store of DevInterp 2 must have {what}; this one has only {sorted(map(str, flat.variables))}."
        )
    trace = _renamed(flat[TRACE_LOSS], (CHAIN, STEP, BATCH, POSITION))
    num_draws = next((flat.sizes[d] for d in (DRAW,) if d in flat.sizes), int(settings["num_draws"]))
    spacing, burnin = int(settings.get("num_steps_bw_draws") or 1), int(settings.get("num_burnin_steps") or 0)
    root = xr.Dataset(
        coords={
            RESTRICTION: np.array([restriction], dtype=object),
            CHAIN: np.arange(trace.sizes[CHAIN]),
            DRAW: np.arange(num_draws),
            "draw_step": (DRAW, burnin + spacing * np.arange(num_draws)),
        },
        attrs={
            "schema_version": schema.SCHEMA_VERSION,
            "config": json.dumps(settings),
            "provenance": json.dumps({"imported_from": "DevInterp 2", "attributes": flat.attrs}),
        },
    )
    if "metrics_numel" in flat.attrs:
        root.coords["num_moving"] = (RESTRICTION, [int(flat.attrs["metrics_numel"])])
    groups = {"/": root, f"/{schema.TRACE}": _trace(flat, trace), f"/{schema.STATUS}": _status(flat, trace)}
    metrics = [str(name) for name in flat.variables if str(name).startswith(METRIC)]
    if metrics:
        groups[f"/{schema.METRICS}"] = xr.Dataset(
            {
                name.removeprefix(METRIC): _renamed(flat[name], (CHAIN, STEP)).expand_dims(RESTRICTION)
                for name in metrics
            }
        )
    for name in sorted(map(str, flat.variables)):  # a store lists its arrays in any order
        if name.startswith(LOSS):
            observable = name.removeprefix(LOSS)
            groups[f"/{schema.OBSERVABLES}/{observable}"] = _observable(flat, observable)
    return xr.DataTree.from_dict(groups)


def _renamed(array: xr.DataArray, dims: tuple[str, ...]) -> xr.DataArray:
    """Return an array with its dims renamed, in their order, and without coordinates."""
    if array.ndim != len(dims):
        raise StoreError(
            f"`{array.name}` of a store of DevInterp 2 must have {len(dims)} dims {dims}; got {array.dims}."
        )
    return xr.DataArray(array.variable.copy(deep=False)).rename(dict(zip(array.dims, dims, strict=True)))


def _positions(loss: xr.DataArray) -> np.ndarray:
    return np.arange(1, loss.sizes[POSITION] + 1)


def _trace(flat: xr.Dataset, loss: xr.DataArray) -> xr.Dataset:
    trace = xr.Dataset(
        {"loss": loss.expand_dims(RESTRICTION), "init_loss": _renamed(flat["init_loss"], (CHAIN, POSITION))}
    )
    if TRACE_TOKENS in flat:
        trace[TRACE_TOKEN_IDS] = _renamed(flat[TRACE_TOKENS], (CHAIN, STEP, BATCH, TOKEN))
    return trace.assign_coords({STEP: np.arange(loss.sizes[STEP]), POSITION: _positions(loss)})


def _observable(flat: xr.Dataset, name: str) -> xr.Dataset:
    loss = _renamed(flat[LOSS + name], (CHAIN, DRAW, SEQUENCE, POSITION))
    observable = xr.Dataset({"loss": loss.expand_dims(RESTRICTION)})
    if TOKENS + name in flat:
        observable["token_ids"] = _renamed(flat[TOKENS + name], (SEQUENCE, TOKEN))
    return observable.assign_coords({POSITION: _positions(loss)})


def _status(flat: xr.Dataset, trace: xr.DataArray) -> xr.Dataset:
    # Weights that are not finite stay so: the last step shows whether a chain diverged.
    finite = np.isfinite(trace.isel({STEP: -1}).to_numpy()).all(axis=(1, 2))[None]
    complete = flat.attrs.get("completed", 1) == 1
    state = (
        np.where(finite, schema.FINISHED, schema.DIVERGED) if complete else np.full(finite.shape, schema.INTERRUPTED)
    )
    error = np.where(finite | (not complete), "", "its last losses, in a store of DevInterp 2, are not finite")
    dims = (RESTRICTION, CHAIN)
    return xr.Dataset(
        {
            "steps_done": (dims, np.full(finite.shape, trace.sizes[STEP])),
            "state": (dims, state.astype(object)),
            "error": (dims, error.astype(object)),
        }
    )
