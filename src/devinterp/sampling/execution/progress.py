"""How far chains are: bars for people, and numbers for the store's heartbeat."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from devinterp.sampling.execution.start_losses import StartLosses
from devinterp.sampling.settings import Settings
from devinterp.types import Draw

#: Bars of chains that have ended are taken away when there are more chains than this.
_MAX_BARS = 16


@dataclass(frozen=True)
class Update:
    """What a chain has done since the last update; small, so that workers can send it.

    Parameters
    ----------
    restriction, chain : int
        Which chain.
    step : int
        Steps it has taken in all.
    loss : float
        Mean loss of its latest step, NaN if there is none.
    total, count : float, int
        Sum over its latest steps, as many of them as are after burn-in, of what it descends, and their number.
    error : str or None
        Why it ended, if it diverged.
    """

    restriction: int
    chain: int
    step: int
    loss: float
    total: float
    count: int
    error: str | None = None


def summarize(draw: Draw, settings: Settings) -> Update:
    """Return what is to be shown of a draw that holds the losses of all rows of its steps."""
    means = step_means(draw.loss, settings)
    kept = means[max(0, settings.num_burnin_steps - draw.first_step) :]
    return Update(
        draw.restriction,
        draw.chain,
        draw.first_step + draw.num_steps,
        float(means[-1]) if len(means) else math.nan,
        float(kept.sum()),
        len(kept),
        draw.error,
    )


def step_means(losses: np.ndarray, settings: Settings) -> np.ndarray:
    """Return what a chain descends at each step: the mean over its minibatches of each one's mean over unmasked losses.

    Parameters
    ----------
    losses : numpy.ndarray
        ``(step, batch, *loss_dims)``, NaN where masked.
    settings : Settings
        Of the run.
    """
    # Not -1: a chain may break at the first step after its losses were handed over, and then hands over none.
    of_each = math.prod(losses.shape[1:]) // settings.batches_per_step
    parts = losses.reshape(len(losses), settings.batches_per_step, of_each)
    unmasked = ~np.isnan(parts)
    with np.errstate(invalid="ignore"):
        return np.asarray((np.sum(parts, axis=-1, dtype=np.float64, where=unmasked) / unmasked.sum(-1)).mean(-1))


class Display:
    """Shows updates of chains, and counts their steps; shows nothing where there is no `progress`."""

    def __init__(
        self, progress: Progress | None, settings: Settings, start: StartLosses, label: Callable[[int, int], str]
    ) -> None:
        self._progress, self._settings, self._start, self._label = progress, settings, start, label
        self._tasks: dict[tuple[int, int], TaskID] = {}
        self._sums: dict[tuple[int, int], tuple[float, int]] = {}
        self._steps: dict[tuple[int, int], int] = {}
        self._began, self._taken = time.monotonic(), 0

    def begin(self, restriction: int, chain: int, *, step: int) -> None:
        """Show a chain that goes on from a step."""
        key = (restriction, chain)
        self._steps[key], self._sums[key] = step, (0.0, 0)
        if self._progress is not None and key not in self._tasks:
            self._tasks[key] = self._progress.add_task(
                self._label(*key), total=self._settings.num_steps, completed=step, loss="", llc="", rate=""
            )

    def show(self, update: Update) -> None:
        """Show how far a chain is."""
        key = (update.restriction, update.chain)
        if key not in self._steps:
            self.begin(*key, step=0)
        self._taken += max(0, update.step - self._steps[key])
        self._steps[key] = update.step
        if self._progress is None:
            return
        steps = range(update.step - update.count, update.step)
        rise = update.total - self._start.total(update.chain, steps)
        total, count = self._sums[key][0] + rise, self._sums[key][1] + update.count
        self._sums[key] = total, count
        fields: dict[str, Any] = {}
        if np.isfinite(update.loss):
            fields["loss"] = f"loss {update.loss:.3f}"
        if count:
            fields["llc"] = f"{self._start.name} {self._settings.n_beta * total / count:.2f}"
        if update.error is not None:
            fields["loss"] = "[red]diverged[/red]"
        task = self._tasks[key]
        self._progress.update(task, completed=update.step, **fields)
        speed = self._progress.tasks[self._progress.task_ids.index(task)].speed
        self._progress.update(task, rate="" if speed is None else f"{speed:.2f} steps/s")
        if update.error is not None or update.step == self._settings.num_steps:
            self._progress.stop_task(task)
            if len(self._tasks) > _MAX_BARS:
                self._progress.update(task, visible=False)

    def say(self, line: str) -> None:
        """Show a line above the bars."""
        if self._progress is not None:
            self._progress.console.print(line, style="dim", markup=False, highlight=False)

    def heartbeat(self) -> dict[str, Any]:
        """Return how far this process is: steps of the chains it runs or has run, and steps per second."""
        steps = {f"{r}/{c}": step for (r, c), step in list(self._steps.items()) if step < self._settings.num_steps}
        return {"steps": steps, "rate": round(self._taken / max(time.monotonic() - self._began, 1e-9), 3)}


@contextmanager
def display(
    show: bool | None, settings: Settings, start: Callable[[], StartLosses], label: Callable[[int, int], str]
) -> Iterator[Display]:
    """Show bars while the block runs.

    Parameters
    ----------
    show : bool or None
        Whether to; None means only in a terminal or a notebook.
    settings : Settings
        Of the run.
    start : callable
        Gives the losses at w0, to which the running LLC is relative; called where that is shown.
    label : callable
        Names a chain, by its restriction and number.
    """
    console = Console(stderr=True)
    if show is None:
        show = console.is_terminal or console.is_jupyter
    if not show:
        yield Display(None, settings, StartLosses(math.nan), label)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[llc]}"),
    )
    with Progress(*columns, console=console) as progress:
        yield Display(progress, settings, start(), label)
