"""The result of susceptibilities, labelled and as the flat tables of DevInterp 2."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.blockwise import Array, storable
from devinterp.analyses.common.run_data import losses, pad_tokens
from devinterp.schema import OBSERVABLES, POSITION, RESTRICTION, SEQUENCE, TOKEN

#: Names of an estimate, its error and the latter's degrees of freedom, and what DevInterp 2's tables call them.
_NAMES = {"susceptibility": "sus", "susceptibility_se": "sus_se", "susceptibility_dof": "sus_dof"}


def result_tree(
    run: xr.DataTree,
    estimates: dict[str, tuple[Array | None, ...]],
    attrs: dict[str, Any],
    error_attrs: dict[str, Any],
) -> xr.DataTree:
    """Return the groups ``/labelled``, ``/susceptibilities`` and ``/context``.

    Parameters
    ----------
    run : xarray.DataTree
        What was analysed.
    estimates : dict of str to (array, array or None, array or None)
        By observable: susceptibilities ``(restriction, sequence, position)``, their errors and the degrees of freedom of these.
    attrs, error_attrs : dict
        Attributes of the tree and of the errors.
    """
    dims = (RESTRICTION, SEQUENCE, POSITION)
    datasets: dict[str, xr.Dataset] = {}
    for name, estimate in estimates.items():
        group = f"{OBSERVABLES}/{name}"
        loss = losses(run, group, "loss" if "loss" in run[group] else schema.LOSS_MEAN)
        positions = loss[POSITION].to_numpy() if POSITION in loss.coords else np.arange(1, loss.sizes[POSITION] + 1)
        coords = {
            RESTRICTION: run[RESTRICTION].to_numpy(),
            SEQUENCE: np.arange(loss.sizes[SEQUENCE]),
            POSITION: positions,
        }
        variables = {name: (dims, array) for name, array in zip(_NAMES, estimate, strict=True) if array is not None}
        datasets[name] = xr.Dataset(variables, coords)
    flat, context = _flat(run, datasets)
    if "sus_se" in flat:
        flat["sus_se"].attrs = error_attrs
    labelled = xr.concat(
        list(datasets.values()), xr.Variable(("observable",), np.array(list(datasets), dtype=object)), join="outer"
    )
    labelled = labelled.transpose(RESTRICTION, "observable", SEQUENCE, POSITION)
    if "susceptibility_se" in labelled:
        labelled["susceptibility_se"].attrs = error_attrs
    ids = [_token_ids(run, name, labelled.sizes[SEQUENCE]) for name in datasets]
    if all(each is not None for each in ids):
        width = max(each.sizes[TOKEN] for each in ids if each is not None)
        labelled["token_ids"] = xr.concat([pad_tokens(each, width) for each in ids if each is not None], "observable")
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


def _flat(run: xr.DataTree, datasets: dict[str, xr.Dataset]) -> tuple[xr.Dataset, xr.Dataset | None]:
    """Return DevInterp 2's tables: one row for each token that is predicted, and one for each token."""
    attrs = {"dataset_id_to_name": list(datasets)}
    rows = []
    for number, dataset in enumerate(datasets.values()):
        names = {**_NAMES, RESTRICTION: "wr"}
        renamed = dataset.rename({old: new for old, new in names.items() if old in dataset.variables})
        stacked = _stacked(
            renamed, (SEQUENCE, POSITION), "sus_flat", number, {SEQUENCE: "batch", POSITION: "target_position"}
        )
        rows.append(stacked.transpose("sus_flat", "wr"))
    table = xr.concat(rows, "sus_flat", join="exact", coords="different", compat="equals") if len(rows) > 1 else rows[0]
    table.attrs = attrs
    texts = []
    for number, name in enumerate(datasets):
        ids = _token_ids(run, name, datasets[name].sizes[SEQUENCE])
        if ids is None:
            return table, None
        labelled = ids.assign_coords({SEQUENCE: np.arange(ids.sizes[SEQUENCE]), TOKEN: np.arange(ids.sizes[TOKEN])})
        texts.append(
            _stacked(
                labelled.to_dataset(name="input_ids"),
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
    """Stack two dims as `flat`, with their labels and the number of the dataset as coordinates."""
    stacked = dataset.stack({flat: dims}, create_index=False).reset_coords(drop=False)
    labels = {new: (flat, stacked[old].to_numpy()) for old, new in names.items()}
    stacked = stacked.drop_vars(list(names))
    count = stacked.sizes[flat]
    return stacked.assign_coords({"dataset_id": (flat, np.full(count, number)), **labels})
