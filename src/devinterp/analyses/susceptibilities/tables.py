"""The result of susceptibilities: labelled, and as the flat tables of DevInterp 2."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.blockwise import storable
from devinterp.analyses.common.run_data import losses, pad_tokens
from devinterp.analyses.susceptibilities.moments import Estimate
from devinterp.schema import OBSERVABLES, POSITION, RESTRICTION, SEQUENCE, TOKEN


def result_tree(
    run: xr.DataTree, estimates: dict[str, Estimate], attrs: dict[str, Any], freedom: dict[str, Any]
) -> xr.DataTree:
    """Return the groups ``/labelled``, ``/susceptibilities`` and ``/context``.

    Parameters
    ----------
    run : xarray.DataTree
        What was analysed.
    estimates : dict of str to (array, array or None)
        Susceptibilities ``(restriction, sequence, position)`` and their errors, by observable.
    attrs, freedom : dict
        Attributes of the tree and of the errors.
    """
    dims = (RESTRICTION, SEQUENCE, POSITION)
    found: dict[str, xr.Dataset] = {}
    for name, (chi, error) in estimates.items():
        group = f"{OBSERVABLES}/{name}"
        loss = losses(run, group, "loss" if "loss" in run[group] else schema.LOSS_MEAN)
        positions = loss[POSITION].to_numpy() if POSITION in loss.coords else np.arange(1, loss.sizes[POSITION] + 1)
        variables = {"susceptibility": (dims, chi)} | ({} if error is None else {"susceptibility_se": (dims, error)})
        coords = {RESTRICTION: run[RESTRICTION].to_numpy(), SEQUENCE: np.arange(chi.shape[1]), POSITION: positions}
        found[name] = xr.Dataset(variables, coords)
    flat, context = _flat(run, found)
    if "sus_se" in flat:
        flat["sus_se"].attrs = freedom
    labelled = xr.concat(
        list(found.values()), xr.Variable(("observable",), np.array(list(found), dtype=object)), join="outer"
    )
    labelled = labelled.transpose(RESTRICTION, "observable", SEQUENCE, POSITION)
    if "susceptibility_se" in labelled:
        labelled["susceptibility_se"].attrs = freedom
    ids = [_token_ids(run, name, labelled.sizes[SEQUENCE]) for name in found]
    if all(one is not None for one in ids):
        width = max(one.sizes[TOKEN] for one in ids if one is not None)
        labelled["token_ids"] = xr.concat([pad_tokens(one, width) for one in ids if one is not None], "observable")
    groups = {"/labelled": storable(labelled), "/susceptibilities": storable(flat)}
    if context is not None:
        groups["/context"] = storable(context)
    tree = xr.DataTree.from_dict(groups)
    tree.attrs = attrs
    return tree


def _token_ids(run: xr.DataTree, name: str, num_sequences: int) -> xr.DataArray | None:
    group = run[f"{OBSERVABLES}/{name}"]
    if "token_ids" not in group:
        return None
    ids = xr.DataArray(group["token_ids"].variable)
    return ids.pad({SEQUENCE: (0, num_sequences - ids.sizes[SEQUENCE])}, constant_values=-1)


def _flat(run: xr.DataTree, found: dict[str, xr.Dataset]) -> tuple[xr.Dataset, xr.Dataset | None]:
    """Return DevInterp 2's tables: one row for each token that is predicted, and one for each token."""
    attrs = {"dataset_id_to_name": {str(number): name for number, name in enumerate(found)}}
    rows = []
    for number, one in enumerate(found.values()):
        names = {"susceptibility": "sus", "susceptibility_se": "sus_se", RESTRICTION: "wr"}
        renamed = one.rename({old: new for old, new in names.items() if old in one.variables})
        stacked = _stacked(
            renamed, (SEQUENCE, POSITION), "sus_flat", number, {SEQUENCE: "batch", POSITION: "target_position"}
        )
        rows.append(stacked.transpose("sus_flat", "wr"))
    table = xr.concat(rows, "sus_flat", join="exact", coords="different", compat="equals") if len(rows) > 1 else rows[0]
    table.attrs = attrs
    texts = []
    for number, name in enumerate(found):
        ids = _token_ids(run, name, found[name].sizes[SEQUENCE])
        if ids is None:
            return table, None
        whole = ids.assign_coords({SEQUENCE: np.arange(ids.sizes[SEQUENCE]), TOKEN: np.arange(ids.sizes[TOKEN])})
        texts.append(
            _stacked(
                whole.to_dataset(name="input_ids"),
                (SEQUENCE, TOKEN),
                "ctx_flat",
                number,
                {SEQUENCE: "batch", TOKEN: POSITION},
            )
        )
    context = (
        xr.concat(texts, "ctx_flat", join="exact", coords="different", compat="equals") if len(texts) > 1 else texts[0]
    )
    context.attrs = attrs
    return table, context


def _stacked(dataset: xr.Dataset, dims: tuple[str, str], flat: str, number: int, names: dict[str, str]) -> xr.Dataset:
    """Return two dims as one, their labels as plain coordinates, and the dataset's number."""
    stacked = dataset.stack({flat: dims}, create_index=False).reset_coords(drop=False)
    labels = {new: (flat, stacked[old].to_numpy()) for old, new in names.items()}
    stacked = stacked.drop_vars(list(names))
    count = stacked.sizes[flat]
    return stacked.assign_coords({"dataset_id": (flat, np.full(count, number)), **labels})
