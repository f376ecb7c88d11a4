"""The sampling runs at or below a node: finding them, computing something of each, joining the results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.errors import BrokenChainsError, InvalidInputError, MissingDataError, StoreError
from devinterp.selection import restored
from devinterp.study_labels import StudyLabels, unfolded

Result = xr.Dataset | xr.DataArray | xr.DataTree

#: Dimension along which results are joined when no single setting tells the runs apart; its labels are their paths.
RUN = "run"

#: Up to this size in bytes what an analysis requires is read at once and kept in memory.
EAGER_BYTES = 256 * 2**20

# Runs that differ only in these settings are the same experiment.
_INCIDENTAL = ("output_path", "device")


def find(tree: xr.DataTree, *, needed_by: str) -> dict[str, xr.DataTree]:
    """Return the runs at or below a node, by their path relative to it.

    Parameters
    ----------
    tree : xarray.DataTree
        Any node.
    needed_by : str
        Name of the analysis or plot, for the message.

    Raises
    ------
    MissingDataError
        If there is none; the message says when the node lies inside a run.
    """
    runs = schema.runs(tree)
    if runs:
        return runs
    above = next((node for node in tree.parents if schema.is_run(node)), None)
    hint = (
        f"it lies inside the run at {above.path!r}: call `{needed_by}` there"
        if above is not None
        else "open a store written by `devinterp.sample`, with `devinterp.open` or `xarray.open_datatree`"
    )
    raise MissingDataError(f"`{needed_by}` needs a sampling run; there is none at or below {tree.path!r}: {hint}.")


def settings(run: xr.DataTree) -> dict[str, Any]:
    """Return the arguments that a run was sampled with, as recorded in its attribute ``config``; none if it has none.

    Raises
    ------
    StoreError
        If the attribute is not what `sample` writes.
    """
    config = run.attrs.get("config", "{}")
    try:
        values = json.loads(config) if isinstance(config, str) else dict(config)
    except (ValueError, TypeError) as error:
        raise StoreError(f"the attribute `config` of the run at {run.path!r} is no JSON object: {error}.") from error
    if not isinstance(values, dict):
        raise StoreError(f"the attribute `config` of the run at {run.path!r} is no JSON object, but {config!r:.80}.")
    return values


def only(tree: xr.DataTree, *, name: str, requires: Sequence[str] = ()) -> xr.DataTree:
    """Return the only run at or below a node, with everything that is required of it.

    Parameters
    ----------
    tree : xarray.DataTree
        Any node.
    name : str
        Name of the plot or analysis that works on one run, for messages.
    requires : sequence of str, optional
        Paths of the variables that it reads.

    Raises
    ------
    MissingDataError
        If there is no run, or it lacks a required variable.
    InvalidInputError
        If there are several.
    """
    runs = find(tree, needed_by=name)
    if len(runs) > 1:
        raise InvalidInputError(
            f"`{name}` needs one sampling run; below {tree.path!r} there are {len(runs)}: "
            f"{', '.join(map(repr, runs))}. Choose one, for example `tree[{next(iter(runs))!r}].slt.{name}()`."
        )
    [run] = runs.values()
    schema.check(run, requires, needed_by=name)
    # What was opened without Dask is read before parts of it are selected: xarray then keeps it for the next call.
    unchunked = [variable for variable in schema.in_required_groups(run, requires) if variable.chunks is None]
    if sum(variable.nbytes for variable in unchunked) <= EAGER_BYTES:
        for variable in unchunked:
            variable.load()
    return restored(run, settings(run))


def checked(tree: xr.DataTree, *, name: str, requires: Sequence[str] = ()) -> xr.DataTree:
    """Return a tree of several runs, each of which has everything that is required of it.

    Raises
    ------
    MissingDataError
        If there is no run, or one lacks a required variable.
    """
    _complete(tree, name, requires)
    return tree


def _complete(tree: xr.DataTree, name: str, requires: Sequence[str]) -> dict[str, xr.DataTree]:
    """Return the runs at or below a node, after checking that each has what is required of it."""
    runs = find(tree, needed_by=name)
    for path, run in runs.items():
        try:
            schema.check(run, requires, needed_by=name)
        except MissingDataError as error:
            raise error if len(runs) == 1 else MissingDataError(f"run {path!r}: {error}") from None
    return runs


def compute_each(
    tree: xr.DataTree,
    compute: Callable[[xr.DataTree], Result],
    *,
    name: str,
    requires: Sequence[str] = (),
    leave_out_broken: bool = False,
) -> Result:
    """Compute something of every run at or below a node.

    Parameters
    ----------
    tree : xarray.DataTree
        Any node.
    compute : callable
        What to compute of one run.
    name : str
        Name of the analysis, for messages.
    requires : sequence of str, optional
        Paths of the variables that it reads.
    leave_out_broken : bool, default: False
        Whether, of several runs, those without a finished chain are left out; the attribute ``runs_left_out`` names them.

    Returns
    -------
    xarray.Dataset, xarray.DataArray or xarray.DataTree
        What `compute` returned for the only run, or the results of all runs joined: those of a study along what varies in it,
        others as `join` says.

    Raises
    ------
    MissingDataError
        If there is no run, or one lacks a required variable.
    BrokenChainsError
        If chains of a run diverged or are unfinished, and `compute` refuses that.
    """
    runs = _complete(tree, name, requires)
    # What is read of large runs is not kept in the tree: memory would grow with their number.
    are_large = len(runs) > 1 and sum(map(_size, runs.values())) > EAGER_BYTES
    results: dict[str, Result] = {}
    broken: dict[str, BrokenChainsError] = {}
    for path, run in runs.items():
        try:
            results[path] = compute(restored(run.copy(deep=False) if are_large else run, settings(run)))
        except BrokenChainsError as error:
            if len(runs) == 1:
                raise
            if not leave_out_broken:
                raise BrokenChainsError(f"run {path!r}: {error}") from None
            broken[path] = error
    if not results:
        raise next(iter(broken.values()))
    study = StudyLabels.of(runs)
    if study is None:
        runs = {path: run for path, run in runs.items() if path in results}
        if len(results) == 1:
            return next(iter(results.values()))
        joined = join(results, {path: settings(run) for path, run in runs.items()}, name=name)
    else:
        joined = join_study(results, study, name=name)
    if broken:
        joined.attrs["runs_left_out"] = list(broken)
    return joined


def _size(run: xr.DataTree) -> int:
    return sum(
        variable.nbytes for node in run.subtree for variable in node.variables.values() if variable.chunks is None
    )


def join_study(results: Mapping[str, Result], study: StudyLabels, *, name: str) -> Any:
    """Join results of the runs of a study along what varies in it; combinations without a result are NaN.

    Parameters
    ----------
    results : mapping of str to result
        By path of the run.
    study : StudyLabels
        What tells the runs apart.
    name : str
        Name of the analysis, for messages.

    Raises
    ------
    InvalidInputError
        If the results do not fit together.
    """
    paths = list(results)
    along = xr.Dataset(coords={RUN: paths})
    return _join(list(results.values()), along, name, paths, lambda part: unfolded(part, study, RUN, paths))


def join(results: Mapping[str, Result], configs: Mapping[str, Mapping[str, Any]], *, name: str) -> Result:
    """Join the results of several runs along a new dimension named after what differs.

    Runs that differ in exactly one setting, for example ``lr``, that is a number or a word in each of them, are joined
    along a dimension of that name, in increasing order of numbers. All others are joined along ``run``, labelled by
    path, with the settings that differ as further coordinates.

    Parameters
    ----------
    results : mapping of str to result
        By path of the run; all of one class.
    configs : mapping of str to mapping
        Settings of the runs, by path.
    name : str
        Name of the analysis, for messages.

    Raises
    ------
    InvalidInputError
        If the results do not fit together.
    """
    paths, along = _labels(configs)
    return _join([results[path] for path in paths], along, name, list(results))


def _join(
    parts: Sequence[Result],
    along: xr.Dataset,
    name: str,
    paths: Sequence[str],
    unfold: Callable[[Any], Any] = lambda joined: joined,
) -> Result:
    """Join results in their order along the one dimension of `along`, and call a function on each joined part."""
    try:
        if all(isinstance(part, xr.DataTree) for part in parts):
            return _join_trees([part for part in parts if isinstance(part, xr.DataTree)], along, unfold)
        joined: Result = unfold(_concat(parts, along))
        return joined
    except (ValueError, TypeError) as error:
        raise InvalidInputError(
            f"the results of `{name}` for the runs {', '.join(map(repr, paths))} cannot be joined ({error}); call it "
            f"on one run at a time, for example `tree[{paths[0]!r}].slt.{name}()`."
        ) from error


def _labels(configs: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], xr.Dataset]:
    """Return the runs' paths in order, and the coordinates that tell them apart along one dimension."""
    differing = _differing(list(configs.values()))
    columns = {key: _column([config.get(key) for config in configs.values()]) for key in differing}
    if len(differing) == 1:
        [(key, column)] = columns.items()
        if column is not None and len(np.unique(column)) == len(column):
            order = np.argsort(column, kind="stable") if column.dtype.kind in "iuf" else np.arange(len(column))
            paths = list(configs)
            return [paths[i] for i in order], xr.Dataset(coords={key: column[order]})
    extra = {key: (RUN, column) for key, column in columns.items() if column is not None}
    return list(configs), xr.Dataset(coords={RUN: list(configs), **extra})


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for config in configs for key in config if key not in _INCIDENTAL)
    return [key for key in keys if len({json.dumps(config.get(key), sort_keys=True) for config in configs}) > 1]


def _column(values: list[Any]) -> np.ndarray | None:
    """Return values as coordinate labels, or None when they are not all numbers or all words."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return np.asarray(values)
    return np.asarray(values) if all(isinstance(value, str) for value in values) else None


def _concat(parts: Sequence[Any], along: xr.Dataset) -> Any:
    dim = next(iter(along.dims))
    if any(dim in part.dims for part in parts):
        raise ValueError(f"they have a dimension {dim!r} of their own")
    # "all" compares no values, so that nothing is loaded and what differs between runs is never taken from the first.
    joined = xr.concat(
        parts,
        dim=along[dim],
        data_vars="all",
        coords="all",
        compat="no_conflicts",
        join="outer",
        combine_attrs="drop_conflicts",
    )
    joined = joined.assign_coords(along.coords)
    if isinstance(joined, xr.Dataset):
        joined = _with_verdicts(joined, parts, dim)
    return _with_degrees_of_freedom(joined, parts, dim) if isinstance(joined, xr.Dataset) else joined


def _with_verdicts(joined: xr.Dataset, parts: Sequence[xr.Dataset], dim: Any) -> xr.Dataset:
    """Keep what is said of each run beside its numbers: attributes of results that are no variable of theirs."""
    if "verdict" in joined or any("verdict" not in part.attrs for part in parts):
        return joined
    findings = [", ".join(map(str, part.attrs.get("findings", ()))) for part in parts]
    joined["verdict"] = (dim, np.array([str(part.attrs["verdict"]) for part in parts], dtype=object))
    joined["findings"] = (dim, np.array(findings, dtype=object))
    joined.attrs = {name: value for name, value in joined.attrs.items() if name not in ("verdict", "findings")}
    return joined


def _with_degrees_of_freedom(joined: xr.Dataset, parts: Sequence[xr.Dataset], dim: Any) -> xr.Dataset:
    """Keep the degrees of freedom of errors that differ between runs, for `confidence_interval`."""
    for name in [str(name) for name in joined.data_vars if str(name).endswith("_se")]:
        degrees = [part[name].attrs.get("degrees_of_freedom", np.inf) if name in part else np.nan for part in parts]
        if len({each for each in degrees if not np.isnan(each)}) > 1:
            joined[f"{name.removesuffix('_se')}_dof"] = (dim, np.array(degrees, dtype=float))
    return joined


def _join_trees(trees: Sequence[xr.DataTree], along: xr.Dataset, unfold: Callable[[Any], Any]) -> xr.DataTree:
    groups = [{node.relative_to(tree): node.to_dataset(inherit=False) for node in tree.subtree} for tree in trees]
    if any(set(each) != set(groups[0]) for each in groups):
        raise ValueError("they have different groups")
    joined = {path: unfold(_concat([each[path] for each in groups], along)) for path in groups[0]}
    return xr.DataTree.from_dict(joined)
