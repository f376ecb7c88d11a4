"""One run of a study: these settings into this part of the store."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import xarray as xr
from torch import nn

from devinterp import schema
from devinterp.errors import StoreError
from devinterp.sampling.estimate import DryRun
from devinterp.sampling.options import RunOptions
from devinterp.slt.prepared_run import carry_out, prepared_run
from devinterp.store.location import StoreLike
from devinterp.store.run_store import RunStore
from devinterp.studies.arguments import restrictions_for
from devinterp.studies.requests import NOTE

#: Characters of a traceback that are recorded.
_TRACEBACK = 4000


def run_into(
    place: StoreLike | None,
    model: nn.Module,
    arguments: Mapping[str, Any],
    how: RunOptions,
    note: Mapping[str, Any],
    *,
    meanwhile: Callable[[], AbstractContextManager[None]] = nullcontext,
    tell_diverged: Callable[[int, int], None] = lambda diverged, chains: None,
) -> xr.DataTree | DryRun:
    """Carry out one run of a study: sample what its part of the store lacks.

    Parameters
    ----------
    place : str, path, store or None
        Where the run is stored, `devinterp.store.study_store.StudyStore.place`; None: in memory.
    model : torch.nn.Module
        Its model; as it was afterwards.
    arguments : mapping
        Every other argument of `devinterp.slt.sampling.sample`, by its name; restrictions may be functions of the model.
    how : RunOptions
        How the study is carried out; where is `place`.
    note : mapping
        ``labels`` and ``dims`` of the run, and what else the study records of it in the provenance.
    meanwhile : callable, optional
        Gives a context in which sampling happens.
    tell_diverged : callable, optional
        Is given the numbers of diverged and of all chains, where any diverged.

    Returns
    -------
    xarray.DataTree or DryRun
        The run.

    Raises
    ------
    Exception
        Whatever goes wrong; what is stored by then stays, and the same call goes on from there.
    """
    own = replace(how, output_path=place, notes={**(how.notes or {}), NOTE: dict(note)})
    given = {**restrictions_for(model, arguments), "model": model, "options": own}

    def count(store: RunStore) -> None:
        states = np.asarray(store.read_status().state)
        diverged = int((states == schema.DIVERGED).sum())
        if diverged:
            tell_diverged(diverged, states.size)

    with prepared_run(given) as (spec, options), meanwhile():
        return carry_out(spec, options, tell_diverged=count)


def is_fatal(error: BaseException) -> bool:
    """Say whether an error concerns the whole study and not one run: its store, or an end that was asked for."""
    return isinstance(error, StoreError) or not isinstance(error, Exception)


def failure(error: Exception, labels: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is recorded of a run that failed."""
    text = str(error).strip()
    return {
        "error": f"{type(error).__name__}: {text}" if text else type(error).__name__,
        "traceback": "".join(traceback.format_exception(error))[-_TRACEBACK:],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "labels": dict(labels),
    }
