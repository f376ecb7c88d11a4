"""The loss on the sampling task at every draw, and what it was at the starting weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import xarray as xr

from devinterp.analyses.common.blockwise import Array
from devinterp.analyses.common.mean_losses import draw_means, start_mean, trace_start, trace_start_error
from devinterp.errors import InvalidInputError, MissingDataError
from devinterp.schema import CHAIN, DRAW, OBSERVABLES, RESTRICTION

#: Where L0 comes from; "auto": "paired" where the run has what it needs.
InitialLoss = Literal["auto", "paired", "trace"]


@dataclass(frozen=True)
class TaskSeries:
    r"""The mean loss :math:`L` on the sampling task at every draw, and :math:`\phi = L - L_0`.

    Parameters
    ----------
    name : str
        The observable that is the sampling task.
    loss, rise : array
        :math:`L` and :math:`\phi`, ``(restriction, chain, draw)``, float64.
    initial_loss : {"paired", "trace"}
        Where :math:`L_0` comes from.
    initial_loss_error : array or None
        Standard error of :math:`L_0`, ``(restriction, 1, 1)``, NaN where the run does not record it; None if there is none,
        because :math:`L_0` was measured on the very sequences of :math:`L`.
    """

    name: str
    loss: Array
    rise: Array
    initial_loss: Literal["paired", "trace"]
    initial_loss_error: Array | None

    @classmethod
    def of(cls, run: xr.DataTree, task: str, initial_loss: InitialLoss) -> TaskSeries:
        """Return the series of a run.

        Raises
        ------
        MissingDataError
            If `initial_loss` is ``"paired"`` and the run lacks the losses at the starting weights.
        """
        if initial_loss not in ("auto", "paired", "trace"):
            raise InvalidInputError(f"`initial_loss` (={initial_loss!r}) must be 'auto', 'paired' or 'trace'.")
        group = f"{OBSERVABLES}/{task}"
        recorded = "init_loss" in run[group]
        if initial_loss == "paired" and not recorded:
            raise MissingDataError(f"initial_loss='paired' needs `{group}/init_loss`; this run has none: pass 'trace'.")
        loss = draw_means(run, group).transpose(RESTRICTION, CHAIN, DRAW)
        paired = recorded and initial_loss != "trace"
        start = start_mean(run, group) if paired else trace_start(run)
        series = [loss, (loss - start).transpose(*loss.dims)]
        if not paired:
            sizes = {RESTRICTION: loss.sizes[RESTRICTION], CHAIN: 1, DRAW: 1}
            series.append(trace_start_error(run).set_dims(sizes))  # type: ignore[no-untyped-call]
        if loss.chunks is not None:
            series = [each.transpose(*loss.dims).chunk({RESTRICTION: 1, CHAIN: -1, DRAW: -1}) for each in series]
        loss, rise, *error = (each.transpose(*loss.dims).data for each in series)
        return cls(task, loss, rise, "paired" if paired else "trace", error[0] if error else None)
