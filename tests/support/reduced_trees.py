"""Trees as `sample` writes them where it keeps less than every loss."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from devinterp import schema


def recorded_as(tree: xr.DataTree, record: str) -> xr.DataTree:
    """Return a run that recorded every loss as one that recorded means of sequences, or moments."""
    groups = {path: node.to_dataset(inherit=False) for path, node in tree.subtree_with_keys}
    groups["."].attrs["config"] = json.dumps(json.loads(tree.attrs["config"]) | {"record": record})
    if record == "token":
        return xr.DataTree.from_dict(groups)
    for path in groups:
        if path.split("/")[0] not in (schema.TRACE, schema.OBSERVABLES) or "loss" not in groups[path]:
            continue
        group = groups[path]
        loss = group["loss"].astype(float)
        rows = "batch" if path == schema.TRACE else "sequence"
        if record == "sequence":
            reduced = {"loss": loss.mean("position")}
        else:
            reduced = {"mean_loss": loss.mean([rows, "position"])}
            if path != schema.TRACE:
                reduced["loss_mean"] = loss.mean("draw")
        groups[path] = group.drop_vars("loss").assign(reduced)
    if "row_loss" in groups[schema.TRACE]:
        trace = groups[schema.TRACE]
        losses = trace["row_loss"].astype(float)
        count = losses.notnull().sum("position").astype(np.int32)
        groups[schema.TRACE] = trace.assign(row_loss=losses.mean("position"), row_count=count)
    return xr.DataTree.from_dict(groups)
