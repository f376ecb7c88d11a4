"""The losses at w0 to which the learning coefficient of a running chain is relative."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

import numpy as np

from devinterp import schema
from devinterp.sampling.spec import RunSpec
from devinterp.store.run_store import RunStore


@final
@dataclass(frozen=True)
class StartLosses:
    """What the losses of steps are compared with: those of the same rows at w0, or one mean loss at w0.

    Parameters
    ----------
    overall : float
        L(w0), the mean over minibatches of each one's mean loss.
    sums : mapping of int to numpy.ndarray
        For each chain the sums over its first 0, 1, 2, ... steps of the loss of their minibatches at w0; empty where the
        losses of rows at w0 are not stored.
    """

    overall: float
    sums: Mapping[int, np.ndarray] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return what a learning coefficient relative to these losses is called."""
        return "paired LLC" if self.sums else "LLC"

    def total(self, chain: int, steps: range) -> float:
        """Return the sum of the losses at w0 over some consecutive steps of a chain."""
        if not self.sums:
            return self.overall * len(steps)
        return float(self.sums[chain][steps.stop] - self.sums[chain][steps.start])


def start_losses(spec: RunSpec, store: RunStore) -> StartLosses:
    """Return the losses at w0 that a store holds, without ``init_noise``."""
    names = ("w0_loss_mean", "init_loss_mean", "init_loss")  # the last for stores of earlier versions
    name = next(name for name in names if store.contains(f"{schema.TRACE}/{name}"))
    overall = float(np.nanmean(store.read_array(f"{schema.TRACE}/{name}")))
    if not store.contains(f"{schema.TRACE}/row_id"):
        return StartLosses(overall)
    ids, loss = (store.read_array(f"{schema.TRACE}/{name}") for name in ("row_id", "row_loss"))
    order = np.argsort(ids)
    values = loss.reshape(len(loss), -1).astype(np.float64)
    count = (~np.isnan(values)).sum(1)
    total = np.nansum(values, axis=1)
    if store.contains(f"{schema.TRACE}/row_count"):
        count = store.read_array(f"{schema.TRACE}/row_count")
        total = total * count
    of_streams: dict[int, np.ndarray] = {}
    sums = {}
    for chain in range(spec.settings.num_chains):
        steps = spec.schedule.steps(chain)
        if id(steps) not in of_streams:  # chains with the same minibatches get the same list
            rows = order[np.searchsorted(ids, np.stack(steps), sorter=order)]
            rows = rows.reshape(len(rows), spec.settings.batches_per_step, -1)
            with np.errstate(invalid="ignore"):
                means = (total[rows].sum(-1) / count[rows].sum(-1)).mean(-1)
            of_streams[id(steps)] = np.concatenate([[0.0], np.cumsum(means)])
        sums[chain] = of_streams[id(steps)]
    return StartLosses(overall, sums)
