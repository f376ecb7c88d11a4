"""The results recorded from DevInterp 2.0.1, as trees."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import xarray as xr

from devinterp.store.reading.v2 import from_v2

V2 = Path(__file__).parents[1] / "data" / "v2"
CASES = json.loads((V2 / "v2_cases.json").read_text())
_DIMS = {
    "sampling_loss_micro": ("chain", "step", "batch_sampling", "token_pos"),
    "sampling_input_ids_micro": ("chain", "step", "batch_sampling", "token"),
    "sampling_loss": ("chain", "draw", "batch", "token_pos"),
    "init_loss": ("chain", "token_pos"),
}


@lru_cache
def results() -> dict[str, np.ndarray]:
    """Return every recorded array by its path."""
    with np.load(V2 / "v2_results.npz") as archive:
        return {name: archive[name] for name in archive.files}


def recorded_tree(case: str, *, restriction: str = "full") -> xr.DataTree:
    """Return a recorded sampling run as a tree."""
    variables = {}
    for path, values in results().items():
        if not path.startswith(f"{case}/") or "/llc/" in path:
            continue
        name = path.split("/")[1]
        kind, _, observable = name.partition("_")
        if name in _DIMS:
            dims = _DIMS[name]
        elif kind == "loss":
            dims = ("chain", "draw", f"batch_{observable}", "token_pos")
        elif kind == "metrics":
            dims = ("chain", "step")
        else:
            dims = ("batch_" + name.removeprefix("input_ids_"), "token")
        variables[name] = (dims, values)
    settings = {**CASES["base"], **CASES["cases"][case]}
    attrs = {"metadata": {"config": {"sampler": settings}}, "completed": 1}
    return from_v2(xr.Dataset(variables, attrs=attrs), restriction=restriction)


def joined(**cases: str) -> xr.DataTree:
    """Return recorded runs of the same chains as one run with several restrictions, by their names."""
    trees = [recorded_tree(case, restriction=name) for name, case in cases.items()]
    groups = {}
    for path, _ in trees[0].subtree_with_keys:
        parts = [tree[path].to_dataset(inherit=False) for tree in trees]
        joined_parts = {
            name: xr.concat([part[name] for part in parts], "restriction")
            if "restriction" in variable.dims
            else variable
            for name, variable in parts[0].variables.items()
        }
        groups[path] = xr.Dataset(joined_parts)
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = trees[0].attrs
    return tree
