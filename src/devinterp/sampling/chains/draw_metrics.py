"""Metrics of draws: the virial before a draw's step, of all sampled weights and each parameter tensor; the distance after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from devinterp import schema
from devinterp.sampling.chains.virial import Virial, square_distance, virial, virial_along
from devinterp.sampling.engines.engine import Engine
from devinterp.types import StepInputs


@final
class DrawMetrics:
    """Measures the step of a draw.

    Parameters
    ----------
    engine : Engine
        The chains.
    restrictions : sequence of str
        The restrictions they are under.
    """

    def __init__(self, engine: Engine, restrictions: Sequence[str]) -> None:
        self._weights, self._spec = engine.weights, engine.spec
        columns = {name: number for number, name in enumerate(engine.spec.parameter_names)}
        own = [columns[name] for name in engine.weights.names]
        self._is_whole, self._num_columns = own == list(range(len(columns))), len(columns)
        self._columns = torch.tensor(own, device=engine.weights.device)
        self._measured: Virial | None = None
        directions = [engine.spec.directions[name] for name in restrictions] if engine.spec.directions else []
        parts = zip(*(each.vectors for each in directions), strict=True)
        self._vectors = [torch.stack(each).to(engine.weights.device) for each in parts]
        self._along: Tensor | None = None

    def before(self, step: StepInputs) -> None:
        """Measure the step that is about to be taken."""
        settings = self._spec.settings
        self._measured = virial(step, settings.target, settings.bounding_box_size)
        if self._vectors:
            self._along = virial_along(step, settings.target, self._vectors)

    @torch.no_grad()
    def after(self) -> dict[str, Tensor]:
        """Return the metrics of the draw that the step led to, by name: ``(chain,)``, or ``(chain, parameter)``."""
        measured, self._measured = self._measured, None
        assert measured is not None
        metrics = {
            schema.VIRIAL: _sum(measured.total),
            schema.VIRIAL_GRADIENT: _sum(measured.gradient),
            schema.VIRIAL_SQUARE: _sum(measured.square),
            schema.PARAMETER_VIRIAL: self._spread(measured.total),
        }
        if measured.volume is not None:
            metrics[schema.VIRIAL_VOLUME] = _sum(measured.volume)
            metrics[schema.PARAMETER_VOLUME] = self._spread(measured.volume)
        if self._along is not None:
            metrics[schema.DIRECTION_VIRIAL], self._along = self._along, None
        if self._spec.observables:
            metrics[schema.DRAW_SQUARE] = square_distance(self._weights.values, self._weights.initial_weights)
        return metrics

    def _spread(self, parts: Tensor) -> Tensor:
        """Return numbers of this restriction's parameters ``(chain, parameter)`` among those of the run, NaN elsewhere."""
        if self._is_whole:
            return parts
        spread = parts.new_full((len(parts), self._num_columns), torch.nan)
        spread[:, self._columns] = parts
        return spread


def _sum(parts: Tensor) -> Tensor:
    return parts.double().sum(1)
