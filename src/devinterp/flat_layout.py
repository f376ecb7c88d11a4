"""A run in the flat layout of DevInterp 2, for scripts and tools that read its names; and what has become of these names."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.errors import InvalidInputError
from devinterp.schema import BATCH, CHAIN, DRAW, POSITION, RESTRICTION, STEP, TOKEN

#: Variables of the flat layout, and prefixes of those that have an observable's or a metric's name.
TRACE_LOSS, TRACE_TOKENS, DRAW_LOSS = "sampling_loss_micro", "sampling_input_ids_micro", "sampling_loss"
LOSS, TOKENS, METRIC = "loss_", "input_ids_", "metrics_"
#: Variable of ``/trace`` with the tokens of the minibatches, which an imported store has in place of dataset rows.
TRACE_TOKEN_IDS = "token_ids"


def where_now(tree: xr.DataTree | None, name: str) -> str | None:
    """Return where in a tree the content of a variable of the flat layout is, as a sentence; None for other names."""
    advice = "`tree.slt.to_v2()` gives a dataset with the names of DevInterp 2"
    known = {
        TRACE_LOSS: "is `tree['trace/loss']`",
        DRAW_LOSS: "is `tree['trace/loss']` at the steps `tree['draw_step']`",
        TRACE_TOKENS: "is not stored: `tree['trace/sequence_id']` says which rows of the dataset they are",
        "init_loss": "is `tree['trace/init_loss']`",
    }
    if name in known:
        return f"{name!r} of DevInterp 2 {known[name]}; {advice}."
    names = None if tree is None else schema.observable_names(tree)
    for prefix, variable in ((LOSS, "loss"), (TOKENS, "token_ids")):
        if name.startswith(prefix):
            short = name.removeprefix(prefix)
            observable = short if names is None else schema.observable_called(short, names)
            place = f"is `tree['{schema.OBSERVABLES}/{observable}/{variable}']`"
            missing = f"would be an observable of that name; the run has {sorted(names or ())}"
            return f"{name!r} of DevInterp 2 {place if observable else missing}; {advice}."
    if name.startswith(METRIC):
        return f"{name!r} of DevInterp 2 is `tree['{schema.METRICS}/{name.removeprefix(METRIC)}']`; {advice}."
    return None


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
        TRACE_LOSS: _flat(trace["loss"], (CHAIN, STEP, "batch_sampling", "token_pos")),
        "init_loss": _flat(trace["init_loss"], (CHAIN, "token_pos")),
        DRAW_LOSS: _flat(
            _select_draws(trace["loss"], _draw_places(trace, run), per_draw), (CHAIN, DRAW, BATCH, "token_pos")
        ),
    }
    if TRACE_TOKEN_IDS in trace:
        variables[TRACE_TOKENS] = _flat(trace[TRACE_TOKEN_IDS], (CHAIN, STEP, "batch_sampling", TOKEN))
    for name, flat_name in _flat_names(schema.observable_names(run)).items():
        group = _group(run, f"{schema.OBSERVABLES}/{name}")
        dim = f"batch_{flat_name}"
        variables[LOSS + flat_name] = _flat(group["loss"], (CHAIN, DRAW, dim, "token_pos"))
        if "token_ids" in group:
            variables[TOKENS + flat_name] = _flat(group["token_ids"], (dim, TOKEN))
    if schema.METRICS in run.children:
        metrics = _group(run, schema.METRICS).data_vars
        for metric_name, metric in ((name, each) for name, each in metrics.items() if STEP in each.dims):
            variables[METRIC + str(metric_name)] = _flat(metric, (CHAIN, STEP))
    finished = bool((np.asarray(run[f"{schema.STATUS}/state"], dtype=object).astype(str) == schema.FINISHED).all())
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


def _draw_places(trace: xr.Dataset, run: xr.DataTree) -> np.ndarray:
    """Return where among the steps of the trace the draws were taken."""
    steps = trace[STEP].to_numpy() if STEP in trace.coords else np.arange(trace.sizes[STEP])
    missing = set(run["draw_step"].to_numpy()) - set(steps)
    if missing:
        raise InvalidInputError(
            f"`{DRAW_LOSS}` of DevInterp 2 is the loss of the steps at which draws were taken; of these, "
            f"{sorted(missing)[:3]} were "
            "left out by a selection: select draws with them."
        )
    return np.array([int(np.flatnonzero(steps == step)[0]) for step in run["draw_step"].to_numpy()], dtype=np.int64)


def _select_draws(loss: xr.DataArray, steps: np.ndarray, batch_size: int) -> xr.DataArray:
    """Return the minibatch losses at the draws, their mean over the batches of gradient accumulation."""
    drawn = loss.isel({STEP: steps})
    parts = [drawn.isel({BATCH: slice(n, n + batch_size)}) for n in range(0, drawn.sizes[BATCH], batch_size)]
    return parts[0] if len(parts) == 1 else sum(parts[1:], parts[0]) / len(parts)


def _flat_names(names: list[str]) -> dict[str, str]:
    flat = {name: schema.flat_name(name) for name in names}
    for name, short in flat.items():
        other = next((o for o, s in flat.items() if s == short and o != name), None)
        if other is not None:
            raise InvalidInputError(
                f"observables {name!r} and {other!r} would both be {LOSS + short!r} in the layout of DevInterp 2: rename one."
            )
    return flat
