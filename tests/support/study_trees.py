"""A study of synthetic runs, without sampling."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from devinterp.testing import synthetic_tree


def study_tree(labels: Sequence[Mapping[str, Any]], **options: Any) -> xr.DataTree:
    """Return runs that differ in these labels, with the table of the study in their root.

    Each run has a seed of its own, so that no two have the same numbers.
    """
    dims = {name: [name] for name in labels[0]}
    root, runs = xr.DataTree(), {}
    for number, label in enumerate(labels):
        name = ",".join(f"{key}={value}" for key, value in label.items())
        run = synthetic_tree(**{"seed": number, **options})
        provenance = {**json.loads(run.attrs["provenance"]), "notes": {"study": {"labels": dict(label), "dims": dims}}}
        run.attrs["provenance"] = json.dumps(provenance)
        root[name] = run
        runs[name] = dict(label)
    root.attrs["study"] = json.dumps({"version": 1, "dims": dims, "runs": runs, "failed": {}})
    return root
