"""Open the flat stores that DevInterp 2 wrote as a tree, and return a tree in that layout for tools that read it.

The flat layout has one set of variables for one weight restriction: ``sampling_loss_micro`` and ``init_loss`` of the chains,
``loss_<observable>`` and ``input_ids_<observable>``, and ``metrics_<metric>``. It lacks the losses of observables at the
starting weights and the standard error of the initial loss: results that need these are not available from such a store.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.errors import GroupNotFoundError

from devinterp import schema
from devinterp.errors import InvalidInputError, StoreError
from devinterp.schema import BATCH, CHAIN, DRAW, POSITION, RESTRICTION, SEQUENCE, STEP, TOKEN

_TRACE_LOSS, _TRACE_TOKENS, _DRAW_LOSS = "sampling_loss_micro", "sampling_input_ids_micro", "sampling_loss"
_LOSS, _TOKENS, _METRIC = "loss_", "input_ids_", "metrics_"
#: Variable of ``/trace`` with the tokens of the minibatches, which an imported store has in place of dataset rows.
TRACE_TOKEN_IDS = "token_ids"


def is_v2(store: Store) -> bool:
    """Say whether DevInterp 2 wrote a store: it has no schema version, but a configuration, and in it a sampler's or losses.

    One that lacks either the sampler's configuration or the losses is incomplete: `open_v2` says what is missing.
    """
    try:
        root = zarr.open_group(store, mode="r")
    except (GroupNotFoundError, FileNotFoundError, KeyError, ValueError):
        return False
    metadata = root.attrs.get("metadata")
    config = metadata.get("config") if isinstance(metadata, Mapping) else None
    if "schema_version" in root.attrs or not isinstance(config, Mapping):
        return False
    return "sampler" in config or _TRACE_LOSS in root


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
    missing = [name for name in (_TRACE_LOSS, "init_loss") if name not in flat.variables]
    settings = flat.attrs.get("metadata", {}).get("config", {}).get("sampler")
    if missing or not settings:
        what = ", ".join(missing) or "its attribute metadata.config.sampler"
        raise StoreError(
            f"a store of DevInterp 2 must have {what}; this one has only {sorted(map(str, flat.variables))}."
        )
    trace = _renamed(flat[_TRACE_LOSS], (CHAIN, STEP, BATCH, POSITION))
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
    metrics = [str(name) for name in flat.variables if str(name).startswith(_METRIC)]
    if metrics:
        groups[f"/{schema.METRICS}"] = xr.Dataset(
            {
                name.removeprefix(_METRIC): _renamed(flat[name], (CHAIN, STEP)).expand_dims(RESTRICTION)
                for name in metrics
            }
        )
    for name in sorted(map(str, flat.variables)):  # a store lists its arrays in any order
        if name.startswith(_LOSS):
            observable = name.removeprefix(_LOSS)
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
    if _TRACE_TOKENS in flat:
        trace[TRACE_TOKEN_IDS] = _renamed(flat[_TRACE_TOKENS], (CHAIN, STEP, BATCH, TOKEN))
    return trace.assign_coords({STEP: np.arange(loss.sizes[STEP]), POSITION: _positions(loss)})


def _observable(flat: xr.Dataset, name: str) -> xr.Dataset:
    loss = _renamed(flat[_LOSS + name], (CHAIN, DRAW, SEQUENCE, POSITION))
    observable = xr.Dataset({"loss": loss.expand_dims(RESTRICTION)})
    if _TOKENS + name in flat:
        observable["token_ids"] = _renamed(flat[_TOKENS + name], (SEQUENCE, TOKEN))
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


def to_v2(tree: xr.DataTree, *, restriction: str | None = None) -> xr.Dataset:
    """Return one restriction of a run in the flat layout of DevInterp 2, lazily if the run is lazy.

    ``sampling_input_ids_micro`` is present only for imported runs: this package stores the rows of the dataset instead of
    the tokens of minibatches.

    Parameters
    ----------
    tree : xarray.DataTree
        A sampling run.
    restriction : str, optional
        Which weight restriction; needed where there are several.

    Returns
    -------
    xarray.Dataset
        Write it with ``.to_zarr(path)``; `devinterp.open` reads it back.

    Raises
    ------
    InvalidInputError
        If `restriction` is not one of the run's, if two observables get the same name (in this layout names consist of
        letters, digits and underscores), or if sequences have different lengths, which it cannot store.
    """
    names = [str(name) for name in tree[RESTRICTION].to_numpy()]
    if (restriction is None and len(names) > 1) or (restriction is not None and restriction not in names):
        raise InvalidInputError(
            f"the layout of DevInterp 2 holds one restriction: `restriction` (={restriction!r}) must be one of {names}."
        )
    run = tree.isel({RESTRICTION: names.index(restriction) if restriction else 0}, missing_dims="ignore")
    _check_equal_lengths(run)
    settings = json.loads(run.attrs["config"])
    trace = _group(run, schema.TRACE)
    per_draw = int(settings.get("batch_size") or trace.sizes[BATCH])
    variables = {
        _TRACE_LOSS: _flat(trace["loss"], (CHAIN, STEP, "batch_sampling", "token_pos")),
        "init_loss": _flat(trace["init_loss"], (CHAIN, "token_pos")),
        _DRAW_LOSS: _flat(
            _select_draws(trace["loss"], run["draw_step"].to_numpy(), per_draw), (CHAIN, DRAW, BATCH, "token_pos")
        ),
    }
    if TRACE_TOKEN_IDS in trace:
        variables[_TRACE_TOKENS] = _flat(trace[TRACE_TOKEN_IDS], (CHAIN, STEP, "batch_sampling", TOKEN))
    for name, flat_name in _flat_names(schema.observable_names(run)).items():
        group = _group(run, f"{schema.OBSERVABLES}/{name}")
        dim = f"batch_{flat_name}"
        variables[_LOSS + flat_name] = _flat(group["loss"], (CHAIN, DRAW, dim, "token_pos"))
        if "token_ids" in group:
            variables[_TOKENS + flat_name] = _flat(group["token_ids"], (dim, TOKEN))
    if schema.METRICS in run.children:
        for metric_name, metric in _group(run, schema.METRICS).data_vars.items():
            variables[_METRIC + str(metric_name)] = _flat(metric, (CHAIN, STEP))
    states = np.asarray(run[f"{schema.STATUS}/state"], dtype=object).astype(str)
    finished = bool((states == schema.FINISHED).all())
    attrs: dict[str, Any] = {"metadata": {"config": {"sampler": settings}}, "completed": int(finished)}
    if "num_moving" in run.coords:
        attrs["metrics_numel"] = int(run["num_moving"])
    return xr.Dataset(variables, attrs=attrs)


def _check_equal_lengths(run: xr.DataTree) -> None:
    paths = [schema.TRACE, *(f"{schema.OBSERVABLES}/{name}" for name in schema.observable_names(run))]
    lengths = {path: run[f"{path}/loss"].sizes.get(POSITION) for path in paths}
    if None in lengths.values() or len(set(lengths.values())) > 1:
        raise InvalidInputError(
            f"the layout of DevInterp 2 has one number of positions for all losses; this run has {lengths}: leave observables "
            "out, or select positions."
        )


def _group(run: xr.DataTree, path: str) -> xr.Dataset:
    node = run[path]
    assert isinstance(node, xr.DataTree), path
    return node.to_dataset(inherit=False)


def _flat(array: xr.DataArray, dims: tuple[str, ...]) -> xr.Variable:
    variable = array.variable
    return xr.Variable(dims, variable.data, encoding={})


def _select_draws(loss: xr.DataArray, steps: np.ndarray, batch_size: int) -> xr.DataArray:
    """Return the minibatch losses at the draws, their mean over the batches of gradient accumulation."""
    drawn = loss.isel({STEP: steps})
    parts = [drawn.isel({BATCH: slice(n, n + batch_size)}) for n in range(0, drawn.sizes[BATCH], batch_size)]
    return parts[0] if len(parts) == 1 else sum(parts[1:], parts[0]) / len(parts)


def _flat_names(names: list[str]) -> dict[str, str]:
    flat = {name: re.sub(r"\W", "_", name) for name in names}
    for name, short in flat.items():
        other = next((o for o, s in flat.items() if s == short and o != name), None)
        if other is not None:
            raise InvalidInputError(
                f"observables {name!r} and {other!r} would both be {_LOSS + short!r} in the layout of DevInterp 2: rename one."
            )
    return flat
