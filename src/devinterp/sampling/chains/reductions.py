"""What of the losses is stored: all of them, means of sequences, or running moments. A stage between chain loop and writer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import final

import numpy as np

from devinterp import schema
from devinterp.sampling.chains.loop import Start
from devinterp.sampling.settings import Settings
from devinterp.types import ChainKey, Checkpoint, Draw

_PREFIX = "recorded."


class Reduction(ABC):
    """Reduces draws to what is stored of them. The base class stores everything."""

    def extend(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return a checkpoint with what the reduction has gathered added."""
        return replace(checkpoint, arrays={**checkpoint.arrays, **self.save(checkpoint.keys)})

    @abstractmethod
    def reduce(self, draw: Draw) -> Draw:
        """Return what of a draw is stored."""

    def save(self, chains: Sequence[ChainKey]) -> Mapping[str, Sequence[np.ndarray]]:
        """Return what has been gathered for some chains, as arrays of a `Checkpoint`."""
        return {}

    def resume(self, start: Start) -> Start:
        """Take back what `save` gave, and return the start without it."""
        if start.checkpoint is None:
            return start
        arrays = {name: each for name, each in start.checkpoint.arrays.items() if not name.startswith(_PREFIX)}
        return replace(start, checkpoint=replace(start.checkpoint, arrays=arrays))


@final
class TokenLosses(Reduction):
    """Stores every loss."""

    def reduce(self, draw: Draw) -> Draw:
        """Return the draw."""
        return draw


@final
class SequenceMeans(Reduction):
    """Stores the mean loss of each sequence over its positions."""

    def reduce(self, draw: Draw) -> Draw:
        """Return the draw with the mean loss of each sequence."""
        observables = {name: mean_of_rows(losses, 1) for name, losses in draw.observables.items()}
        return replace(draw, loss=mean_of_rows(draw.loss, 2), observables=observables)


@final
class Moments(Reduction):
    r"""Stores mean losses, and for each token the moments that learning coefficients and susceptibilities need.

    With :math:`L_k` the mean loss on observable k at a draw, these are the mean over draws of every token's loss
    :math:`\ell_x`, and its co-moments :math:`\mathrm{E}[(L_k - \mathrm{E} L_k)(\ell_x - \mathrm{E}\ell_x)]` with every
    :math:`L_k`, kept up to date in float64 by Welford's recurrences.
    """

    def __init__(self, num_steps: int) -> None:
        self._num_steps = num_steps
        self._running: dict[ChainKey, _Running] = {}

    def reduce(self, draw: Draw) -> Draw:
        """Return the draw with mean losses only, and the moments where it is the chain's last."""
        key = (draw.restriction, draw.chain)
        running = self._running.setdefault(key, _Running())
        if draw.index is not None:
            running.add(draw.observables)
        is_last = draw.first_step + draw.num_steps == self._num_steps
        reduced = replace(
            draw,
            loss_name=schema.MEAN_LOSS,
            loss=mean_of_rows(draw.loss, 1),
            observables={name: mean_of_rows(losses, 0) for name, losses in draw.observables.items()},
            summaries=running.summaries() if is_last and draw.error is None else {},
        )
        if draw.error is not None:
            del self._running[key]  # kept after the last draw, for a checkpoint from which more draws go on
        return reduced

    def save(self, chains: Sequence[ChainKey]) -> Mapping[str, Sequence[np.ndarray]]:
        """Return the running moments of some chains."""
        several = len({restriction for restriction, _ in chains}) > 1
        names = {key: f"{key[0]}.{key[1]}" if several else str(key[1]) for key in chains}
        return {f"{_PREFIX}{names[key]}": self._running[key].arrays() for key in chains if key in self._running}

    def resume(self, start: Start) -> Start:
        """Take back the running moments; without a checkpoint, steps must be taken anew to gather them."""
        if start.checkpoint is None:
            return replace(start, steps_done=0)
        for name, arrays in start.checkpoint.arrays.items():
            if name.startswith(_PREFIX):
                *restriction, chain = map(int, name.removeprefix(_PREFIX).split("."))
                key = ((restriction or start.checkpoint.restrictions)[0], chain)
                self._running[key] = _Running.of(arrays)
        return replace(super().resume(start), steps_done=start.checkpoint.step)


class _Running:
    """Running moments of one chain."""

    def __init__(self) -> None:
        self._num = 0
        self._task = np.zeros(0)
        self._means: list[np.ndarray] = []
        self._comoments: list[np.ndarray] = []
        self._names: tuple[str, ...] = ()

    def add(self, observables: Mapping[str, np.ndarray]) -> None:
        """Take the losses of one draw, ``(sequence, *loss_dims)`` each."""
        task = np.array([np.nanmean(losses, dtype=np.float64) for losses in observables.values()])
        if not self._num:
            self._task = np.zeros_like(task)
            self._means = [np.zeros(losses.shape) for losses in observables.values()]
            self._comoments = [np.zeros((len(task), *losses.shape)) for losses in observables.values()]
        self._num += 1
        step = task - self._task
        self._task += step / self._num
        for mean, comoment, losses in zip(self._means, self._comoments, observables.values(), strict=True):
            mean += (losses - mean) / self._num
            comoment += np.multiply.outer(step, losses - mean)
        self._names = tuple(observables)

    def summaries(self) -> dict[str, np.ndarray]:
        """Return what is stored, by path."""
        summaries = {}
        for name, mean, comoment in zip(self._names, self._means, self._comoments, strict=True):
            summaries[f"{schema.OBSERVABLES}/{name}/{schema.LOSS_MEAN}"] = mean.astype(np.float32)
            summaries[f"{schema.OBSERVABLES}/{name}/{schema.LOSS_COMOMENT}"] = (comoment / self._num).astype(np.float32)
        return summaries

    def arrays(self) -> list[np.ndarray]:
        """Return copies of everything, for a checkpoint."""
        names = np.frombuffer("\n".join(self._names).encode(), np.uint8)
        numbers = np.array([self._num])
        return [names.copy(), numbers, self._task.copy(), *(a.copy() for a in (*self._means, *self._comoments))]

    @classmethod
    def of(cls, arrays: Sequence[np.ndarray]) -> _Running:
        """Return what gave such arrays."""
        names, numbers, task, *rest = arrays
        running = cls()
        text = names.tobytes().decode()
        running._names = tuple(text.split("\n")) if text else ()
        running._num, running._task = int(numbers[0]), task.copy()
        half = len(rest) // 2
        running._means, running._comoments = [a.copy() for a in rest[:half]], [a.copy() for a in rest[half:]]
        return running


def mean_of_rows(losses: np.ndarray, keep: int) -> np.ndarray:
    """Return means over all but the first `keep` dimensions, of the unmasked losses, in float64."""
    if losses.ndim <= keep:
        return losses
    axes = tuple(range(keep, losses.ndim))
    unmasked = ~np.isnan(losses)
    total = np.sum(losses, axis=axes, dtype=np.float64, where=unmasked)
    with np.errstate(invalid="ignore"):
        return np.asarray(total / unmasked.sum(axis=axes))


def reduction_of(settings: Settings) -> Reduction:
    """Return the reduction that the settings of a run ask for."""
    if settings.record == "moments":
        return Moments(settings.num_steps)
    return SequenceMeans() if settings.record == "sequence" else TokenLosses()
