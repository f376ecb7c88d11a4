"""A run of which a part was selected, with all its dimensions again: what was selected as a scalar has length one.

Analyses reckon with the dims of ``docs/schema.md``. What xarray makes of a tree is brought back to them here, or refused where
the part that is left cannot be told from the whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.errors import InvalidInputError
from devinterp.schema import BATCH, CHAIN, DRAW, OBSERVABLES, OUTER_DIMS, POSITION, RESTRICTION, STEP, TRACE

#: Attribute of a loss at the initial weights: of how many losses each sample has, whatever was selected since.
NUM_LOSSES = "num_losses"

_KNOWN = {dim for dims in schema.DIMS.values() for dim in dims} - {POSITION}
#: What has a restriction in front where runs start from noise.
_AT_START = ("trace/init_loss*",)
_LABELLED = (RESTRICTION, CHAIN, DRAW, STEP, POSITION, schema.TASK)


def restored(run: xr.DataTree, settings: Mapping[str, Any]) -> xr.DataTree:
    """Return a run with every variable in the dims of the schema: itself where that is so already.

    Parameters
    ----------
    run : xarray.DataTree
        A sampling run, or what a selection left of it.
    settings : mapping
        Its settings.

    Raises
    ------
    InvalidInputError
        If a variable has a dimension that it cannot have, labels are not unique, or a part was selected of what the run
        recorded means over.
    """
    paths = _datasets(run)
    if any(
        _wanted(path, str(name), dataset, settings) != variable.dims
        for path, dataset in paths.items()
        for name, variable in dataset.variables.items()
    ):
        run = _with_all_dims(paths, settings)
        paths = _datasets(run)
    run = _in_order(run, paths)
    _check_parts(run, settings)
    return run


def whole_losses(start: xr.DataArray | xr.DataTree | xr.Variable) -> bool:
    """Say whether a loss at the initial weights has all losses of its samples, as far as that was recorded."""
    num = start.attrs.get(NUM_LOSSES)
    # An attribute that came through netCDF is a number of numpy.
    return num is None or int(num) == math.prod(size for dim, size in start.sizes.items() if dim not in OUTER_DIMS)


def step_labels(run: xr.DataTree) -> np.ndarray:
    """Return which steps of its chains a run holds."""
    trace = run[TRACE]
    if STEP in trace.coords:
        return np.asarray(trace.coords.variables[STEP].values)
    return np.arange(trace.sizes.get(STEP, 0))


def _datasets(run: xr.DataTree) -> dict[str, xr.Dataset]:
    return {path: node.to_dataset(inherit=False) for path, node in schema.groups_of(run)}


@lru_cache(maxsize=512)
def _pattern(path: str, name: str) -> str | None:
    whole = f"{path}/{name}" if path else name
    return next((pattern for pattern in schema.DIMS if _matches(whole, pattern)), None)


@lru_cache(maxsize=512)
def _matches(path: str, pattern: str) -> bool:
    parts, wanted = path.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _wanted(path: str, name: str, dataset: xr.Dataset, settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the dims that a variable of a group has to have."""
    variable = dataset.variables[name]
    if name in _LABELLED and (name in dataset.coords or not path.startswith(schema.METRICS)):
        others = [dim for dim in variable.dims if dim != name]
        if others:
            raise InvalidInputError(
                f"`{path or '/'}`: the labels `{name}` have the dimension {others[0]!r}: select with a list of labels or "
                "places."
            )
        return (name,)
    pattern = _pattern(path, name)
    if pattern is None:
        return variable.dims
    dims = schema.DIMS[pattern]
    lead = [dim for dim in dims if dim != POSITION]
    if any(_matches(f"{path}/{name}", each) for each in _AT_START) and RESTRICTION in variable.dims:
        lead.insert(0, RESTRICTION)
    rest = [dim for dim in variable.dims if dim not in lead]
    if pattern.startswith(schema.RECORDINGS):
        if name in dataset.coords:
            return variable.dims
        return (*lead, *rest)
    own = settings.get("loss_dims") or ()  # names that a user gave may be ours
    wrong = [dim for dim in rest if (dim in _KNOWN and dim not in own) or POSITION not in dims]
    if wrong:
        raise InvalidInputError(
            f"`{path}/{name}` has the dimension {wrong[0]!r}, which it cannot have (its dims are "
            f"{', '.join(dims)}): concatenate "
            "only variables that have the dimension, for example with data_vars='minimal'."
        )
    if POSITION in dims and POSITION not in rest and _position_was_selected(path, name, dataset, settings):
        rest.append(POSITION)
    return (*lead, *rest)


def _position_was_selected(path: str, name: str, dataset: xr.Dataset, settings: Mapping[str, Any]) -> bool:
    """Say whether a variable without `position` had it before one was selected."""
    if name in ("loss", "row_loss") and (settings.get("record") == "sequence" or "row_count" in dataset):
        return False
    if POSITION in dataset.coords:
        return dataset.coords[POSITION].ndim == 0
    if settings.get("loss_dims") == [POSITION] and name == "init_loss" and dataset[name].attrs.get(NUM_LOSSES, 1) > 1:
        raise InvalidInputError(
            f"`{path}` lost the label of its position: select positions without `drop=True`, or as a list."
        )
    return False


def _with_all_dims(paths: Mapping[str, xr.Dataset], settings: Mapping[str, Any]) -> xr.DataTree:
    groups, root_dims = {}, (RESTRICTION, CHAIN, DRAW)
    for path, dataset in paths.items():
        variables = {
            str(name): _as_wanted(variable, _wanted(path, str(name), dataset, settings))
            for name, variable in dataset.variables.items()
            if not path or name not in root_dims
        }
        if not path:
            variables |= _root_labels(dataset, variables, settings)
        coords = {name: each for name, each in variables.items() if name in dataset.coords or name in root_dims}
        data = {name: each for name, each in variables.items() if name not in coords}
        groups[path or "/"] = xr.Dataset(data, coords, attrs=dataset.attrs)
    return xr.DataTree.from_dict(groups)


def _as_wanted(variable: xr.Variable, dims: tuple[Any, ...]) -> xr.Variable:
    missing = [dim for dim in dims if dim not in variable.dims]
    if missing:
        variable = variable.set_dims((*missing, *variable.dims))  # type: ignore[no-untyped-call]
    wanted: xr.Variable = variable.transpose(*dims)
    return wanted


def _root_labels(
    dataset: xr.Dataset, variables: Mapping[str, xr.Variable], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return labels for dims of the root that a selection dropped with `drop=True`."""
    labels: dict[str, Any] = {}
    if RESTRICTION not in variables and RESTRICTION not in dataset.dims:
        names = settings.get("weight_restrictions") or ["full"]
        if len(names) > 1:
            raise InvalidInputError(
                f"the run lost the name of its restriction, one of {names}: select it without `drop=True`, or as a list."
            )
        labels[RESTRICTION] = xr.Variable((RESTRICTION,), np.array(names, dtype=object))
    if CHAIN not in variables and CHAIN not in dataset.dims:
        labels[CHAIN] = xr.Variable((CHAIN,), np.arange(1))
    if DRAW not in variables and DRAW not in dataset.dims:
        if "draw_step" not in variables and (settings.get("num_burnin_steps") or 0):
            raise InvalidInputError("the run lost the number of its draw: select it without `drop=True`, or as a list.")
        labels[DRAW] = xr.Variable((DRAW,), np.arange(1))
    return labels


def _in_order(run: xr.DataTree, paths: Mapping[str, xr.Dataset]) -> xr.DataTree:
    """Return a run whose steps and draws stand in the order in which they were taken."""
    for dataset in paths.values():
        empty = [dim for dim, size in dataset.sizes.items() if size == 0 and (dim in _KNOWN or dim == POSITION)]
        if empty:
            raise InvalidInputError(f"nothing is left along `{empty[0]}`: select at least one.")
    for dim, path in ((RESTRICTION, ""), (CHAIN, ""), (DRAW, ""), (STEP, TRACE)):
        variable = paths[path].variables.get(dim) if path in paths else None
        if variable is None or variable.ndim != 1:
            continue
        labels = variable.values
        if len(set(labels.tolist())) < len(labels):
            raise InvalidInputError(
                f"labels of `{dim}` are not unique: {labels.tolist()[:8]}. Select each only once; to join runs give "
                f"each label its own "
                f"value first, for example `assign_coords({dim}=...)`."
            )
        if dim in (DRAW, STEP) and (np.diff(labels) < 0).any():
            run = run.isel({dim: np.argsort(labels)}, missing_dims="ignore")
    return run


def _check_parts(run: xr.DataTree, settings: Mapping[str, Any]) -> None:
    """Raise if a part was selected of what the run recorded means over."""
    record, sizes = settings.get("record", "token"), settings.get("observables")
    groups = [TRACE, *(f"{OBSERVABLES}/{name}" for name in schema.observable_names(run))]
    if record != "token":
        for group in (group for group in groups if _has(run, group)):
            if "init_loss" in run[group] and not whole_losses(run[f"{group}/init_loss"]):
                _refuse(f"`{POSITION}` of `{group}`", "positions", record)
    if record == "moments":
        if run.sizes.get(DRAW, settings.get("num_draws")) != settings.get("num_draws"):
            _refuse(f"`{DRAW}`", "draws", record)
        for name in schema.observable_names(run):
            num = sizes.get(name) if isinstance(sizes, Mapping) else None
            if num is not None and run[f"{OBSERVABLES}/{name}"].sizes[schema.SEQUENCE] != num:
                _refuse(f"`{schema.SEQUENCE}` of `{OBSERVABLES}/{name}`", "sequences", record)
    slots, per_step = minibatch_slots(run), slots_of(settings)
    if slots is not None and per_step is not None and slots != per_step:
        if (settings.get("gradient_accumulation_steps") or 1) > 1:
            raise InvalidInputError(
                f"a step of this run has {per_step} rows in several minibatches; of these {slots} were selected "
                f"along `{BATCH}`, and "
                "which minibatch they belong to cannot be told: select no part of `batch`."
            )
        if record == "moments":
            _refuse(f"`{BATCH}`", "the rows of a minibatch", record)


def minibatch_slots(run: xr.DataTree) -> int | None:
    """Return how many rows of each step a run holds."""
    size = run[TRACE].sizes.get(BATCH) if TRACE in run.children else None
    return None if size is None else int(size)


def slots_of(settings: Mapping[str, Any]) -> int | None:
    """Return how many rows each step of a run uses, as its settings say."""
    size = settings.get("batch_size")
    return None if size is None else int(size) * int(settings.get("gradient_accumulation_steps") or 1)


def _has(run: xr.DataTree, path: str) -> bool:
    node: Any = run
    for part in path.split("/"):
        if part not in node.children:
            return False
        node = node.children[part]
    return True


def _refuse(what: str, of_what: str, record: str) -> None:
    raise InvalidInputError(
        f"a part of {what} was selected, but the run recorded means over {of_what} (record={record!r}), which are "
        f"of all of them: "
        "select none, or sample with record='token'."
    )
