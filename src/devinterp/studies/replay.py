"""Make a stored run again from what its store says of it, and compare the two."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.errors import InvalidInputError
from devinterp.sampling.run_store.fingerprint import differences, environment
from devinterp.sampling.run_store.weights_hash import same_form
from devinterp.studies.arguments import split
from devinterp.studies.loading import ModelLoader
from devinterp.studies.plan import make_plan
from devinterp.studies.plan_file import PLAN, parse_plan
from devinterp.studies.requests import NOTE
from devinterp.studies.run_one import run_into

#: Notes under which the command line keeps what a run was started with.
SAMPLE = "devinterp sample"
#: Not compared: how far a run is, and what says so.
_STATUS = (schema.STATUS,)


@final
@dataclass(frozen=True)
class ArrayComparison:
    """How an array of a replayed run compares with the stored one.

    Parameters
    ----------
    path : str
        Of the array.
    is_equal : bool
        Whether both are the same to the last bit.
    largest : float
        The largest absolute difference; NaN where there is none to state: of text, or of other shapes.
    remark : str
        What else differs.
    """

    path: str
    is_equal: bool
    largest: float
    remark: str = ""


def source_of(run: xr.DataTree) -> tuple[str, Mapping[str, Any]]:
    """Return which command a run was begun with (`PLAN` or `SAMPLE`), and what that noted.

    Raises
    ------
    InvalidInputError
        If neither; the message says what is known of the model, the data and the loss, and what is not.
    """
    provenance = provenance_of(run)
    notes = provenance.get("notes", {})
    for name in (PLAN, SAMPLE):
        if isinstance(notes.get(name), Mapping):
            return name, notes[name]
    prints = provenance.get("fingerprints", {})
    loss = str(prints.get("loss"))
    raise InvalidInputError(
        "this run was begun from Python, and cannot be had again from its store alone. Known are all settings (`config`) and "
        f"fingerprints: the model is a {provenance.get('model')} ({provenance.get('name_or_path') or 'without a name'}), its "
        f"weights {prints.get('weights')}; not known are where model and data come from"
        f"{'' if 'cross-entropy' in loss else f', and the loss function {loss}'}. Call `sample` or `study` in Python with the "
        "same arguments and another `output_path`."
    )


def provenance_of(run: xr.DataTree) -> dict[str, Any]:
    """Return where, when and from what a run was made, as it says itself."""
    try:
        value = json.loads(run.attrs["provenance"])
    except (KeyError, TypeError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def changed_environment(run: xr.DataTree) -> list[str]:
    """Return one line for each version, device or machine that differs from when the run was made."""
    before, now = provenance_of(run), environment()
    packages = before.get("packages", {})
    lines = [
        f"{name}: {packages.get(name, 'not there')} then, {version} now"
        for name, version in now["packages"].items()
        if packages.get(name) != version
    ]
    others = [name for name in ("python", "host") if before.get(name, now[name]) != now[name]]
    return lines + [f"{name}: {before[name]} then, {now[name]} now" for name in others]


def changed_inputs(stored: xr.DataTree, again: xr.DataTree) -> list[str]:
    """Return one line for each of weights, data, masks and loss that a run made again does not share with the stored one."""
    before, now = (provenance_of(run).get("fingerprints", {}) for run in (stored, again))
    lines = [line.replace("the store has", "then").replace("this run", "now") for line in differences(before, now)]
    if not same_form(str(before.get("weights")), str(now.get("weights"))):
        lines = [line for line in lines if not line.startswith("weights: ")]
        lines.append("weights: their hash is of an earlier form, and was not compared")
    return lines


def replay_planned(run: xr.DataTree, note: Mapping[str, Any], output_path: Path | None) -> xr.DataTree:
    """Make a run of a study again, from the plan that its store keeps.

    Parameters
    ----------
    run : xarray.DataTree
        The stored run.
    note : mapping
        From `source_of`.
    output_path : pathlib.Path or None
        Where to write it; None: in memory.

    Raises
    ------
    InvalidInputError
        If the plan, its models or its data cannot be had any more.
    """
    arguments = parse_plan(str(note["plan"]), Path(str(note["path"])))
    own = {name: arguments.pop(name) for name in ("models", "over", "architecture", "same_noise")}
    base, how = split({**arguments, "output_path": None, "notes": None, "progress": False})
    plan = make_plan(
        own["models"], own["over"], base, how, architecture=own["architecture"], same_noise=own["same_noise"]
    )
    labels = provenance_of(run)["notes"][NOTE]["labels"]
    planned = next((each for each in plan.runs if dict(each.point.labels) == labels), None)
    if planned is None:
        raise InvalidInputError(f"the plan has no run with {labels}: it was changed, or its models were.")
    again = run_into(output_path, ModelLoader(plan.source).get(planned.point), planned.arguments, how, {})
    assert isinstance(again, xr.DataTree)
    return again


def compare(stored: xr.DataTree, again: xr.DataTree) -> Iterator[ArrayComparison]:
    """Yield how each array of a run made again compares with the stored one."""
    theirs = set(schema.variable_paths(again))
    for path in schema.variable_paths(stored):
        if path.split("/")[0] in (schema.NULL, *_STATUS):
            continue
        if path not in theirs:
            yield ArrayComparison(path, False, np.nan, "is not there")
            continue
        one, other = (np.asarray(tree[path]) for tree in (stored, again))
        if one.shape != other.shape:
            yield ArrayComparison(path, False, np.nan, f"has shape {other.shape}, stored is {one.shape}")
        elif one.dtype.kind not in "iufb":
            yield ArrayComparison(path, bool((one.astype(object) == other.astype(object)).all()), np.nan)
        else:
            is_equal = np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
            apart = np.abs(one.astype(np.float64) - other.astype(np.float64))
            largest = 0.0 if is_equal or not apart.size or np.isnan(apart).all() else float(np.nanmax(apart))
            yield ArrayComparison(path, is_equal, largest)
