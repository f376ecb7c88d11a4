r"""Mean susceptibilities over the tokens of an observable, with the error of the mean."""

from __future__ import annotations

from typing import Any

import xarray as xr

from devinterp import schema
from devinterp.analyses.common.mean_losses import draw_means, start_mean
from devinterp.analyses.susceptibilities.analysis import compute_susceptibilities
from devinterp.errors import MissingDataError
from devinterp.runs import only
from devinterp.schema import OBSERVABLES, POSITION, SEQUENCE


def mean_susceptibilities(tree: xr.DataTree, sampling_task: str | None = None, **options: Any) -> xr.Dataset:
    r"""Compute the mean susceptibility of each observable's tokens to every weight restriction.

    A susceptibility is linear in the loss of its token, so the mean over tokens is the susceptibility of the observable's mean
    loss at each draw; its standard error, which the errors of single tokens do not give, is that of this one number.

    Parameters
    ----------
    tree : xarray.DataTree
        A sampling run with several restrictions and observables that recorded losses.
    sampling_task : str, optional
        As in `compute_susceptibilities`.
    **options
        Other options of `compute_susceptibilities`, but for `z_score` and `centre_rows`.

    Returns
    -------
    xarray.Dataset
        ``susceptibility(restriction, observable)`` and ``susceptibility_se`` unless ``standard_errors="none"``, with the
        attributes of `compute_susceptibilities`.

    Raises
    ------
    MissingDataError
        If the run recorded moments instead of losses.
    """
    run = only(tree, name="mean_susceptibilities", requires=("observables/*/loss",))
    groups = {path: node.to_dataset(inherit=False) for path, node in schema.groups_of(run)}
    for name in schema.observable_names(run):
        group = f"{OBSERVABLES}/{name}"
        if "loss" not in groups[group]:
            raise MissingDataError(f"`mean_susceptibilities` needs `{group}/loss`; this run recorded moments instead.")
        means = {"loss": draw_means(run, group)}
        if "init_loss" in run[group]:
            means["init_loss"] = start_mean(run, group)
        groups[group] = xr.Dataset(
            {key: ((*mean.dims, SEQUENCE, POSITION), mean.data[..., None, None]) for key, mean in means.items()}
        )
    averaged = xr.DataTree.from_dict({f"/{path}": dataset for path, dataset in groups.items()})
    result = compute_susceptibilities(averaged, sampling_task, **options)
    labelled = result["labelled"].to_dataset().isel({SEQUENCE: 0, POSITION: 0}, drop=True)
    return labelled.assign_attrs(result.attrs)
