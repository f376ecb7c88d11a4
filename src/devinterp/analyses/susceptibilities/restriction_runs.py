"""Runs that sampled one weight restriction each, as one run with a restriction for each of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from devinterp import runs
from devinterp.errors import InvalidInputError
from devinterp.schema import METRICS, RESTRICTION

#: Settings in which such runs differ.
_MAY_DIFFER = ("weight_restrictions", "observables", "output_path", "device")
#: Up to this share losses at w0 of the same rows may differ: they were computed beside other things.
_ROUNDING = 1e-4


def one_run(trees: Mapping[str, xr.DataTree], *, needed_by: str) -> xr.DataTree:
    """Return several runs of the same model and data, each under one restriction, as one run with all of them.

    Parameters
    ----------
    trees : mapping of str to xarray.DataTree
        By the name that the restriction gets. Observables that some of them lack are left out.
    needed_by : str
        Name of the analysis, for messages.

    Returns
    -------
    xarray.DataTree
        Lazy where the runs are.

    Raises
    ------
    InvalidInputError
        If they are not runs of one restriction each, or differ in their settings, chains, draws or data.
    """
    if not trees:
        raise InvalidInputError(f"`{needed_by}` needs at least one run; the dict of them is empty.")
    parts = {name: _of_one_restriction(tree, name, needed_by) for name, tree in trees.items()}
    first, *others = parts.values()
    first_name, *other_names = parts
    for name, run in zip(other_names, others, strict=True):
        differing = [
            key
            for key in {**runs.settings(first), **runs.settings(run)}
            if key not in _MAY_DIFFER and runs.settings(first).get(key) != runs.settings(run).get(key)
        ]
        if differing:
            raise InvalidInputError(
                f"`{needed_by}` compares runs that differ in their weight restriction only; {first_name!r} and {name!r} differ "
                f"in {', '.join(f'`{key}`' for key in differing)} too: sample them with the same settings."
            )
    shared = set.intersection(*({node.relative_to(run) for node in run.subtree} for run in parts.values()))
    paths = [node.relative_to(first) for node in first.subtree]
    groups = {
        path: _joined({name: _dataset(run, path, name) for name, run in parts.items()}, path, needed_by)
        for path in paths
        if path in shared and path != METRICS  # which no susceptibility reads, and which list other parameters
    }
    joined = xr.DataTree.from_dict(groups)
    joined.attrs = {**first.attrs, "config": json.dumps({**runs.settings(first), "weight_restrictions": list(parts)})}
    return joined


def _of_one_restriction(tree: Any, name: str, needed_by: str) -> xr.DataTree:
    """Return the only run of a tree; of several restrictions the one of this name."""
    if not isinstance(tree, xr.DataTree):
        raise InvalidInputError(
            f"`{needed_by}` takes the trees of runs; {name!r} is a {type(tree).__name__}: open stores with "
            "`devinterp.open(path)`."
        )
    run = runs.only(tree, name=needed_by)
    labels = [str(label) for label in run[RESTRICTION].to_numpy()]
    if len(labels) > 1:
        if name not in labels:
            raise InvalidInputError(
                f"`{needed_by}` takes runs of one restriction each; that of {name!r} has {len(labels)}: {labels}. "
                f"Pass that run itself, or choose: `tree.sel(restriction=[{labels[0]!r}])`."
            )
        run = run.sel({RESTRICTION: [name]})
    return run


def _dataset(run: xr.DataTree, path: str, name: str) -> xr.Dataset:
    """Return a group of a run; the root with the name of its restriction."""
    if path == ".":
        return run.to_dataset(inherit=False).assign_coords({RESTRICTION: np.array([name], dtype=object)})
    node = run[path]
    assert isinstance(node, xr.DataTree), path
    return node.to_dataset(inherit=False)


def _joined(parts: dict[str, xr.Dataset], path: str, needed_by: str) -> xr.Dataset:
    """Join a group of all runs along the restriction; what does not depend on it must be the same in all."""
    first_name, first = next(iter(parts.items()))
    own = [name for name in first.variables if RESTRICTION in first[name].dims]
    common = [name for name in first.variables if name not in own]
    for name, part in parts.items():
        for variable in (each for each in common if each in part.variables):
            if not _same(first.variables[variable], part.variables[variable]):
                raise InvalidInputError(
                    f"`{needed_by}` compares runs of the same model on the same data; `{path}/{variable}` of "
                    f"{first_name!r} and {name!r} differ: sample them with the same dataset, observables and seeds."
                )
    shared = [name for name in own if all(name in part.variables for part in parts.values())]
    result = xr.Dataset()
    if shared:
        pieces = [part.drop_vars([name for name in part.variables if name not in shared]) for part in parts.values()]
        result = xr.concat(pieces, RESTRICTION, data_vars="minimal", coords="minimal", compat="override", join="exact")
    kept = {name: first[name] for name in common if all(name in part.variables for part in parts.values())}
    coords = {name: each for name, each in kept.items() if name in first.coords}
    result = result.assign({name: each for name, each in kept.items() if name not in coords}).assign_coords(coords)
    result.attrs = first.attrs
    return result


def _same(one: xr.Variable, other: xr.Variable) -> bool:
    if one.sizes != other.sizes:
        return False
    if one.dtype.kind == "f":
        return bool(np.allclose(one.to_numpy(), other.to_numpy(), rtol=_ROUNDING, atol=_ROUNDING, equal_nan=True))
    return bool((one.to_numpy() == other.to_numpy()).all())
