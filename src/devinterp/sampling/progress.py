"""Progress bars: one per chain, with rate, time left, the current loss and the running LLC."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from devinterp.sampling.settings import Settings
from devinterp.types import Draw


class Display:
    """Shows draws passing by; does nothing when it is off."""

    def __init__(self, progress: Progress | None, settings: Settings, init_loss: float) -> None:
        self._progress, self._settings, self._init_loss = progress, settings, init_loss

    def track(self, draws: Iterable[Draw], *, labels: Mapping[int, str]) -> Iterator[Draw]:
        """Yield the draws of some chains unchanged, moving their bars; `labels` names each chain."""
        if self._progress is None:
            yield from draws
            return
        steps = self._settings.num_steps
        tasks = {
            chain: self._progress.add_task(label, total=steps, loss="", llc="", rate="")
            for chain, label in labels.items()
        }
        sums = dict.fromkeys(labels, (0.0, 0))
        for draw in draws:
            task, (total, count) = tasks[draw.chain], sums[draw.chain]
            kept = draw.loss[max(0, self._settings.num_burnin_steps - draw.first_step) :]
            total, count = total + float(np.nansum(kept, dtype=np.float64)), count + int(np.isfinite(kept).sum())
            sums[draw.chain] = total, count
            fields: dict[str, Any] = {}
            if draw.num_steps:
                fields["loss"] = f"loss {np.nanmean(draw.loss[-1]):.3f}"
            if count:
                fields["llc"] = f"LLC {self._settings.n_beta * (total / count - self._init_loss):.2f}"
            if draw.error is not None:
                fields["loss"] = "[red]diverged[/red]"
            self._progress.update(task, advance=draw.num_steps, **fields)
            speed = self._progress.tasks[self._progress.task_ids.index(task)].speed
            self._progress.update(task, rate="" if speed is None else f"{speed:.2f} steps/s")
            yield draw
        for task in tasks.values():
            self._progress.stop_task(task)


@contextmanager
def display(show: bool | None, settings: Settings, init_loss: float) -> Iterator[Display]:
    """Show bars while the block runs.

    Parameters
    ----------
    show : bool or None
        Whether to; None means only in a terminal or a notebook.
    settings : Settings
        Of the run.
    init_loss : float
        Mean loss at the start, for the running LLC.
    """
    console = Console(stderr=True)
    if show is None:
        show = console.is_terminal or console.is_jupyter
    if not show:
        yield Display(None, settings, init_loss)
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
        yield Display(progress, settings, init_loss)
