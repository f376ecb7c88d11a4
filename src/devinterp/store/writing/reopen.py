"""Mark chains of a stored run as not at their end, so that they are sampled again or go on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import zarr
from zarr.abc.store import Store

from devinterp import schema


def reopen(store: Store, chains: Iterable[tuple[int, int]], *, from_start: bool) -> None:
    """Mark chains as pending.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store of a run.
    chains : iterable of tuple of int
        Restriction and chain, each by its number.
    from_start : bool
        Whether they begin at their first step, or go on after the steps that the store has.
    """
    state, steps_done, error = (
        zarr.open_array(store, path=f"{schema.STATUS}/{name}", mode="r+", zarr_format=3)
        for name in ("state", "steps_done", "error")
    )
    for chain in chains:
        if from_start:
            steps_done[chain] = np.int64(0)
        state[chain], error[chain] = schema.PENDING, ""
