"""What every analysis takes from a run: settings, the chains and draws to use, observables, losses with uniform dims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import xarray as xr

from devinterp import arguments, schema
from devinterp.errors import BrokenChainsError, InvalidInputError, MissingDataError
from devinterp.runs import settings
from devinterp.schema import CHAIN, DRAW, OUTER_DIMS, POSITION, RESTRICTION, TOKEN, TRACE
from devinterp.selection import step_labels

#: Which chains an analysis may use.
Chains = Literal["all", "finished"]
#: What `use_chains` reads; part of the `requires` of every analysis.
STATUS_REQUIRED = ("status/state",)
Ids = TypeVar("Ids", xr.DataArray, xr.Variable)


def setting(run: xr.DataTree, name: str, *, needed_by: str) -> Any:
    """Return one of a run's settings.

    Raises
    ------
    MissingDataError
        If the run does not record it.
    """
    value = settings(run).get(name)
    if value is None:
        raise MissingDataError(
            f"`{needed_by}` needs the setting `{name}`, which the attribute `config` of this run lacks."
        )
    return value


def noise_attrs(run: xr.DataTree) -> dict[str, float]:
    """Return the attribute ``noise_level`` of a result if the run was sampled with another one than 1.

    Such a run has the temperature ``noise_level**2``, to which covariances of losses are proportional.
    """
    noise_level = settings(run).get("noise_level", 1.0)
    return {} if noise_level == 1 else {"noise_level": float(noise_level)}


def use_chains(run: xr.DataTree, chains: Chains, *, needed_by: str) -> tuple[xr.DataTree, dict[str, Any]]:
    """Select the chains that an analysis may use, and return the attributes that name them.

    Parameters
    ----------
    run : xarray.DataTree
        A sampling run. Only its ``status/state`` is read, which is small.
    chains : {"all", "finished"}
        ``"all"`` demands that every chain finished; ``"finished"`` keeps those that finished under all restrictions, so
        that restrictions are compared on the same chains.
    needed_by : str
        Name of the analysis, for the message.

    Returns
    -------
    run : xarray.DataTree
        The run with these chains only.
    attrs : dict
        ``chains`` (the option), ``chains_used`` and ``chains_left_out`` (labels of chains).

    Raises
    ------
    BrokenChainsError
        If a chain did not finish and `chains` is ``"all"``, or no chain finished.
    """
    if chains not in ("all", "finished"):
        raise InvalidInputError(f"`chains` (={chains!r}) must be 'all' or 'finished'.")
    states = np.asarray(run[f"{schema.STATUS}/state"], dtype=object).astype(str)
    finished = states == schema.FINISHED
    labels = [int(label) for label in run[CHAIN].to_numpy()] if CHAIN in run.coords else list(range(states.shape[1]))
    keep = finished.all(axis=0)
    if not keep.all() and (chains == "all" or not keep.any()):
        raise BrokenChainsError(_broken_message(run, states, labels, keep, needed_by))
    attrs = {
        "chains": chains,
        "chains_used": [label for label, kept in zip(labels, keep, strict=True) if kept],
        "chains_left_out": [label for label, kept in zip(labels, keep, strict=True) if not kept],
    }
    return (run if keep.all() else run.isel({CHAIN: np.flatnonzero(keep)}, missing_dims="ignore")), attrs


def _broken_message(run: xr.DataTree, states: np.ndarray, labels: list[int], keep: np.ndarray, needed_by: str) -> str:
    names = restriction_names(run)
    errors = (
        np.asarray(run[f"{schema.STATUS}/error"], dtype=object).astype(str)
        if "error" in run[schema.STATUS]
        else np.full_like(states, "")
    )
    broken = np.argwhere(states != schema.FINISHED)
    listed = [
        f"restriction {names[r]!r} chain {labels[c]}: {states[r, c]}" + (f" ({errors[r, c]})" if errors[r, c] else "")
        for r, c in broken[:8]
    ]
    more = f"; and {len(broken) - 8} more" if len(broken) > 8 else ""
    if keep.any():
        advice = (
            f"Resume the run, or pass chains='finished' to use chains {[labels[i] for i in np.flatnonzero(keep)]} only."
        )
    else:
        advice = "No chain finished under every restriction: resume the run, or sample again with a smaller `lr`."
    return f"`{needed_by}` needs finished chains; {len(broken)} of {states.size} are not: {'; '.join(listed)}{more}. {advice}"


def restriction_names(run: xr.DataTree) -> list[str]:
    """Return the names of a run's restrictions."""
    return [str(name) for name in run[RESTRICTION].to_numpy()]


def under_restrictions(run: xr.DataTree, names: Sequence[str]) -> xr.DataTree:
    """Return a run under these of its restrictions, in this order."""
    known = restriction_names(run)
    return run.isel({RESTRICTION: [known.index(name) for name in names]}, missing_dims="ignore")


def choose_observable(run: xr.DataTree, name: str | None, *, argument: str, needed_by: str) -> str:
    """Return the name of one observable: the one asked for by an argument, or the only one.

    Raises
    ------
    InvalidInputError
        If there is no such observable, or none was asked for and there are several.
    """
    names = schema.observable_names(run)
    if name is None and len(names) == 1:
        return names[0]
    chosen = schema.observable_called(name, names) if isinstance(name, str) else None
    if chosen is None:
        problem = "is needed: pass one" if name is None else f"(={name!r}) must be one"
        raise InvalidInputError(f"`{needed_by}`: `{argument}` {problem} of the observables, {sorted(names)}.")
    return chosen


#: A temporary name for the dims of a single sample's losses when they are stacked.
_STACKED = "_stacked"


def losses(run: xr.DataTree, path: str, variable: str = "loss") -> xr.DataArray:
    """Return losses with a `position` dimension, of length 1 for models that have one loss per sample.

    Further dims of a sample's losses (``loss_dims=``) are stacked and count as positions.
    Coordinates without an index are dropped, so that arithmetic never reads them.
    """
    array = run[f"{path}/{variable}"]
    array = array.drop_vars([name for name in array.coords if name not in array.xindexes])
    if array.dtype == np.float16:  # only the store is in half precision, not the arithmetic
        array = array.astype(np.float32)
    dims = _sample_dims(array)
    if not dims:
        return array.expand_dims({POSITION: 1}, axis=-1)
    if dims != [POSITION]:
        array = array.drop_vars([name for name, coord in array.coords.items() if set(coord.dims) & set(dims)])
        array = array.stack({_STACKED: dims}, create_index=False).rename({_STACKED: POSITION})
    return array


def unlabelled_losses(run: xr.DataTree, path: str, variable: str = "loss") -> xr.Variable:
    """Return what `losses` returns, without coordinates, whose upkeep takes longer than the arithmetic on a small run."""
    values: xr.Variable = run[path].variables[variable]
    if values.dtype == np.float16 or _sample_dims(values) != [POSITION]:
        return losses(run, path, variable).variable
    return values


def labels(node: xr.DataTree | xr.DataArray, *dims: str) -> dict[str, xr.Variable]:
    """Return the coordinates that label dims at a node, of those dims that have labels."""
    coords = node.coords.variables
    return {dim: coords[dim] for dim in dims if dim in coords}


def labelled(variable: xr.Variable, node: xr.DataTree | xr.DataArray) -> xr.DataArray:
    """Return an array with the coordinates that label its dims at a node."""
    return xr.DataArray(variable, labels(node, *map(str, variable.dims)))


def _sample_dims(array: xr.DataArray | xr.Variable) -> list[Any]:
    return [dim for dim in array.dims if dim not in OUTER_DIMS]


def pad_tokens(ids: Ids, width: int) -> Ids:
    """Pad token ids with -1 to `width` tokens."""
    if ids.sizes[TOKEN] == width:
        return ids
    padded: Ids = ids.pad({TOKEN: (0, width - ids.sizes[TOKEN])}, constant_values=-1)
    return padded


def burnin_steps(run: xr.DataTree, burnin: int | None) -> int:
    """Return the number of initial steps to leave out: `burnin` after checks, or the run's own if that is None."""
    if burnin is None:
        return int(settings(run).get("num_burnin_steps") or 0)
    burnin = arguments.count("burnin", burnin, least=0)
    if settings(run).get("record") == "moments" and burnin != settings(run)["num_burnin_steps"]:
        raise InvalidInputError(
            f"`burnin` (={burnin}) must be the run's own ({settings(run)['num_burnin_steps']}), because it recorded "
            "moments over the draws after that: sample with record='token' to choose later."
        )
    labels = step_labels(run) if TRACE in run.children else np.zeros(0)
    num_steps = int(labels[-1]) + 1 if len(labels) else None
    if num_steps is not None and burnin >= num_steps:
        raise InvalidInputError(
            f"`burnin` (={burnin}) must be less than the number of steps ({num_steps}), so that some remain."
        )
    return burnin


def steps_after(run: xr.DataTree, burnin: int) -> slice:
    """Return the steps that are no burn-in, as an index.

    Raises
    ------
    InvalidInputError
        If there are none.
    """
    labels = step_labels(run)
    first = int(np.searchsorted(labels, burnin))
    if first == len(labels):
        raise InvalidInputError(
            f"`burnin` (={burnin}) leaves none of the steps of this tree ({labels[0]} to {labels[-1]}): pass a smaller one, or "
            "select later steps."
        )
    return slice(first, None)


def places_of_steps(run: xr.DataTree, steps: np.ndarray) -> np.ndarray:
    """Return where steps, given by their numbers, stand along ``step``.

    Raises
    ------
    InvalidInputError
        If a selection left one of them out.
    """
    labels = step_labels(run)
    places = np.searchsorted(labels, steps)
    held = (places < len(labels)) & (labels[np.minimum(places, len(labels) - 1)] == steps)
    if not held.all():
        raise InvalidInputError(
            f"{(~held).sum()} of the steps at which draws were taken, {steps[~held][0]} first, are not in this tree: select "
            "steps and draws so that every draw's step is left."
        )
    return places


def draws_after(run: xr.DataTree, burnin: int) -> slice:
    """Return the draws taken at step `burnin` or later, as an index."""
    if "draw_step" not in run.coords:
        return slice(None)
    steps = run.coords.variables["draw_step"].values  # a few numbers, read at once also from a lazy tree
    kept = np.flatnonzero(steps >= burnin)
    if not len(kept):
        raise InvalidInputError(
            f"`burnin` (={burnin}) must leave some draws: the last one was taken at step {steps.max()}."
        )
    return slice(None) if len(kept) == len(steps) else slice(int(kept[0]), int(kept[-1]) + 1)


def drop_draws(run: xr.DataTree, burnin: int) -> xr.DataTree:
    """Leave out the draws of a run that were taken before step `burnin`."""
    kept = draws_after(run, burnin)
    return run if kept == slice(None) else run.isel({DRAW: kept}, missing_dims="ignore")


def drop_single_restriction(dataset: xr.Dataset) -> xr.Dataset:
    """Drop the `restriction` dimension of a result if its length is 1."""
    if dataset.sizes.get(RESTRICTION) == 1:
        return dataset.isel({RESTRICTION: 0}, drop=True)
    return dataset
