"""What a run's notes say of how it was begun, and whose tokens it has."""

from __future__ import annotations

import json
from typing import Any

import xarray as xr

from devinterp import sources
from devinterp.errors import InvalidInputError


def tokenizer_of(tree: xr.DataTree, given: str | None, *, option: str = "--tokenizer") -> tuple[Any, str]:
    """Return the tokenizer that was asked for, or that of the bundled model where the run used it, and a note.

    What a store names is not loaded by itself: somebody else may have written it.

    Parameters
    ----------
    tree : xarray.DataTree
        A run.
    given : str or None
        A name for `devinterp.sources.load_tokenizer`.
    option : str, optional
        How it is given, for the note.
    """
    if given is not None:
        return sources.load_tokenizer(given), ""
    model = recorded_notes(tree).get("model")
    if model == sources.SMOLLM2:
        try:
            return sources.load_tokenizer(model), ""
        except InvalidInputError as error:
            return None, f"Tokens are shown as ids: {error}"
    of = f" (the run names {model!r})" if isinstance(model, str) and model else ""
    return None, f"Tokens are shown as ids: pass {option}{of}."


def recorded_notes(tree: xr.DataTree) -> dict[str, Any]:
    """Return the arguments of the command that began a run, or nothing where it was begun otherwise."""
    try:
        notes = json.loads(tree.attrs["provenance"])["notes"]
        for command in ("devinterp sample", "devinterp quickstart"):
            if isinstance(notes.get(command), dict):
                return dict(notes[command])
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    return {}


def recorded_task(tree: xr.DataTree) -> str | None:
    """Return the one observable that was read from the data that the run was sampled on, as its notes say; else None."""
    notes = recorded_notes(tree)
    pairs = [str(each).partition("=") for each in notes.get("observable", ()) if isinstance(each, str)]
    names = [name for name, _, source in pairs if source == notes.get("dataset")]
    return names[0] if len(names) == 1 else None
