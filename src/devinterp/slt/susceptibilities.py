"""The susceptibilities, under the import path of DevInterp 2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from devinterp import schema
from devinterp.analyses import susceptibilities as analysis
from devinterp.analyses.susceptibilities.restriction_runs import one_run
from devinterp.errors import InvalidInputError
from devinterp.slt.one_call import of_each_run, sample_then, with_options_of

__all__ = ["compute_susceptibilities", "susceptibilities"]


@with_options_of(analysis.compute_susceptibilities)
def compute_susceptibilities(
    wr_map: xr.DataTree | Mapping[str, xr.DataTree],
    sampling_task: str | None = None,
    observable_names: Sequence[str] | None = None,
    include_sampling_task: bool = False,
    **options: Any,
) -> xr.DataTree:
    """Compute the susceptibility of every token to every weight restriction.

    Parameters
    ----------
    wr_map : xarray.DataTree, or mapping of str to xarray.DataTree
        A run with several restrictions; or the runs of one restriction each, by their names, as a dict or in one tree.
    sampling_task : str, optional
        The observable made of the data that the run was sampled on; needed where there are several.
    observable_names : sequence of str, optional
        Give the susceptibilities of the tokens of these observables only; default: of all but the sampling task.
    include_sampling_task : bool, default: False
        Also give the susceptibilities of the sampling task's own tokens.
    **options : Any
        As for `devinterp.analyses.susceptibilities.compute_susceptibilities`.

    Returns
    -------
    xarray.DataTree
        As `devinterp.analyses.susceptibilities.compute_susceptibilities`.

    Raises
    ------
    InvalidInputError
        If the runs of several restrictions were not sampled in the same way on the same data.
    """
    options |= {"observable_names": observable_names, "include_sampling_task": include_sampling_task}
    if isinstance(wr_map, xr.DataTree) and not _holds_restriction_runs(wr_map):
        result: xr.DataTree = of_each_run(analysis.compute_susceptibilities, wr_map, sampling_task, **options)
        return result
    if not isinstance(wr_map, xr.DataTree | Mapping):
        raise InvalidInputError(f"expected the tree of a run, or a dict of trees; got {type(wr_map).__name__}.")
    trees = schema.runs(wr_map) if isinstance(wr_map, xr.DataTree) else wr_map
    full = options.get("full", "full")
    if options.get("estimator", "two_run") == "two_run" and full not in trees:
        raise InvalidInputError(
            f"`susceptibilities` compares with the run of all weights, which must be there as {full!r}; there are "
            f"{list(trees)}."
        )
    return analysis.compute_susceptibilities(one_run(trees, needed_by="susceptibilities"), sampling_task, **options)


def _holds_restriction_runs(tree: xr.DataTree) -> bool:
    """Say whether a tree holds several runs of which none has a second restriction to be compared with."""
    runs = schema.runs(tree)
    return len(runs) > 1 and all(run.sizes.get(schema.RESTRICTION, 1) == 1 for run in runs.values())


def _check(arguments: Mapping[str, Any]) -> None:
    """Raise before sampling if the run could not be analysed."""
    names = [str(name) for name in arguments["observables"] or ()]
    task, restrictions = arguments.get("sampling_task"), arguments.get("weight_restrictions")
    if (
        not names
        or (task is None and len(names) > 1)
        or (task is not None and not schema.observable_called(task, names))
    ):
        raise InvalidInputError(
            f"`susceptibilities`: `sampling_task` (={task!r}) must be one of the `observables`, which are {names}: add the "
            "dataset that is sampled, for example observables={'train': dataset, ...}, sampling_task='train'."
        )
    full = arguments.get("full", "full")
    two_runs = arguments.get("estimator", "two_run") == "two_run"
    if restrictions is not None and two_runs and full not in restrictions:
        raise InvalidInputError(
            f"`susceptibilities`: `weight_restrictions` must have {full!r}, the run of all weights that the others "
            f"are compared "
            f"with; they are {list(restrictions)}: add {{{full!r}: None}}, or pass estimator='single_run'."
        )


susceptibilities = sample_then(compute_susceptibilities, "susceptibilities", check=_check, fourth="weight_restrictions")
