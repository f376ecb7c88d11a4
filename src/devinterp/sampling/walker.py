"""A kernel at work on the weights of one chain."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from devinterp.sampling import metrics
from devinterp.sampling.settings import Settings
from devinterp.sampling.weights import MovingWeights
from devinterp.types import Transition


class Walker:
    """Moves weights step by step, from where a chain starts.

    Parameters
    ----------
    transition : Transition
        The kernel.
    weights : MovingWeights
        What moves. Put where the chain starts: at the starting weights, plus ``init_noise`` if that is set.
    settings : Settings
        Of the run.
    chain : int
        Which chain. Its noise comes from a generator seeded ``init_seed + chain``.
    """

    def __init__(self, transition: Transition, weights: MovingWeights, settings: Settings, *, chain: int) -> None:
        self._transition, self._weights, self._settings = transition, weights, settings
        self._generator = torch.Generator(weights.device).manual_seed(settings.init_seed + chain)
        weights.reset()
        if settings.init_noise is not None:
            weights.add(weights.noise(self._generator, settings.init_noise))
        self._state = transition.init(weights.values)

    @torch.no_grad()
    def step(self) -> dict[str, Tensor]:
        """Take one step with the gradients that are on the model now, and clear them.

        Returns
        -------
        dict of str to Tensor
            The metrics of the step, ``(1,)`` each; empty unless ``save_metrics`` is set.
        """
        settings, weights = self._settings, self._weights
        gradients = weights.gradients()
        noise: Iterable[Tensor] = weights.noise(self._generator, settings.noise_level)
        measured: dict[str, Tensor] = {}
        if settings.save_metrics:
            noise = list(noise)  # measured first, used after
            scale = settings.lr / 2 * settings.n_beta
            measured = metrics.step_metrics(
                self._transition, weights.values, gradients, weights.origin, self._state, noise, scale=scale
            )
        self._transition.update(weights.values, gradients, weights.origin, self._state, noise)
        if settings.bounding_box_size is not None:
            weights.clamp(settings.bounding_box_size)
        weights.store()
        return measured
