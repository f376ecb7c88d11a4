"""``devinterp resume``: go on with a run that ``devinterp sample`` began."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from devinterp import schema
from devinterp.cli.sampling import COMMAND, sample_named
from devinterp.errors import StoreError


def resume(
    store: Annotated[Path, Parameter(help="The store of the run.")],
    /,
    *,
    num_draws: Annotated[
        int | None, Parameter(help="Draws of each chain, if there are to be more than before.")
    ] = None,
    num_chains: Annotated[int | None, Parameter(help="Chains, if there are to be more.")] = None,
    repair: Annotated[
        bool, Parameter(help="Check the store first and sample again what is damaged.", negative="")
    ] = False,
    paired: Annotated[
        bool | None,
        Parameter(
            help="Measure the losses at w0 of all rows that steps use, for the paired learning coefficient, where the store "
            "lacks them; --no-paired: not, though the run was begun with --paired."
        ),
    ] = None,
    workers: Annotated[int | None, Parameter(help="Processes to sample in.")] = None,
    progress: Annotated[bool | None, Parameter(help="Whether to show progress bars.")] = None,
) -> None:
    """Go on with a run that was interrupted, make it longer, or complete its losses at w0.

    The model and the data are loaded by the names that `devinterp sample` recorded, and compared with what the run began with.
    A run that was started from Python goes on by calling `sample` with the same arguments again.
    """
    arguments = original_arguments(store)
    changes = {
        "num_draws": num_draws,
        "num_chains": num_chains,
        "paired": paired,
        "workers": workers,
        "progress": progress,
    }
    settings = {**arguments.pop("settings"), **{name: value for name, value in changes.items() if value is not None}}
    sample_named(**{**arguments, "output_path": store, "repair": repair, **settings})


def original_arguments(store: Path) -> dict[str, Any]:
    """Return the arguments of the ``devinterp sample`` command that began a run.

    Raises
    ------
    StoreError
        If the store holds no run, or one that another command or Python began.
    """
    from devinterp.store.location import resolve
    from devinterp.store.reading.status import read_attrs

    attrs = read_attrs(resolve(str(store), read_only=True))
    if schema.STUDY in attrs:
        raise StoreError(
            f"{store} is a study: the same `devinterp study PLAN`, or the same call of `study` in Python, goes on with it."
        )
    if "provenance" not in attrs:
        raise StoreError(f"{store} holds no sampling run: there is nothing to go on with.")
    notes = json.loads(attrs["provenance"]).get("notes", {})
    arguments = notes.get(COMMAND) if isinstance(notes, Mapping) else None
    if not isinstance(arguments, Mapping) or not isinstance(arguments.get("settings"), Mapping):
        raise StoreError(
            f"{store} was not begun by `devinterp sample`, so that its model and data are not known by name: call `sample` in "
            "Python with the same arguments again; it goes on where the run is."
        )
    # JSON has no tuples.
    return {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}
