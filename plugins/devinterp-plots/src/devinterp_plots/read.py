"""What pictures read from a tree beside analyses: its only run, a variable, a name that was chosen, a setting."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import xarray as xr

from devinterp import schema
from devinterp.errors import InvalidInputError


def one_run(tree: xr.DataTree, *, plot: str) -> xr.DataTree:
    """Return the only sampling run at or below a node.

    Raises
    ------
    InvalidInputError
        If there are none or several; several are listed.
    """
    runs = schema.runs(tree)
    if len(runs) != 1:
        paths = ", ".join(repr(path) for path in runs) or "none"
        raise InvalidInputError(
            f"`plot.{plot}` draws one sampling run; this tree holds {len(runs)} ({paths}): "
            f'choose one, as in tree["{next(iter(runs), "path")}"].slt.plot.{plot}().'
        )
    return next(iter(runs.values()))


def array(run: xr.DataTree, path: str) -> xr.DataArray:
    """Return the variable at a path of a run."""
    variable = run[path]
    assert isinstance(variable, xr.DataArray)
    return variable


def choose(kind: str, value: str | None, names: Sequence[str], *, plot: str) -> str:
    """Return the name asked for, or the only one there is.

    Raises
    ------
    InvalidInputError
        If it is not there, or if none was asked for and there are several.
    """
    if value is None and len(names) == 1:
        return names[0]
    if value is None or value not in names:
        got = f"{value!r} is not one of" if value is not None else "choose one of"
        raise InvalidInputError(f"`plot.{plot}`: {kind}: {got} {', '.join(repr(name) for name in names) or '(none)'}.")
    return value


def burnin_of(run: xr.DataTree, burnin: int | None) -> int:
    """Return the number of initial steps to leave out: those asked for, or the run's own.

    Raises
    ------
    InvalidInputError
        If no step remains.
    """
    num_steps = array(run, f"{schema.TRACE}/{schema.STEP}").size
    burnin = int(setting(run, "num_burnin_steps")) if burnin is None else burnin
    if not 0 <= burnin < num_steps:
        raise InvalidInputError(
            f"`burnin` (={burnin}) must leave some of the {num_steps} steps: choose 0 to {num_steps - 1}."
        )
    return burnin


def setting(run: xr.DataTree, name: str) -> Any:
    """Return one of the arguments the run was sampled with.

    Raises
    ------
    InvalidInputError
        If the run does not say.
    """
    config = run.attrs.get("config", "{}")
    values = json.loads(config) if isinstance(config, str) else config
    if values.get(name) is None:
        raise InvalidInputError(
            f"this run's `config` attribute does not say its `{name}`: it was not written by devinterp."
        )
    return values[name]
