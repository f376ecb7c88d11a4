"""A kernel at work on the weights of one chain, or of several that advance together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from devinterp.sampling import metrics
from devinterp.sampling.settings import Settings
from devinterp.sampling.weights import MovingWeights
from devinterp.types import Transition


class Walker:
    """Moves weights step by step, from where chains start.

    Parameters
    ----------
    transition : Transition
        The kernel.
    weights : MovingWeights
        What moves. Put where the chains start: at the starting weights, plus ``init_noise`` if that is set.
    settings : Settings
        Of the run.
    chains : sequence of int
        Which chains. The noise of each comes from a generator seeded ``init_seed + chain``.
    """

    def __init__(
        self, transition: Transition, weights: MovingWeights, settings: Settings, *, chains: Sequence[int]
    ) -> None:
        self._transition, self._weights, self._settings = transition, weights, settings
        self._generators = [torch.Generator(weights.device).manual_seed(settings.init_seed + c) for c in chains]
        weights.reset()
        if settings.init_noise is not None:
            weights.add(weights.noise(self._generators, settings.init_noise))
        self._state = transition.init(weights.values)

    @torch.no_grad()
    def step(self) -> dict[str, Tensor]:
        """Take one step with the gradients that are on the model now, and clear them.

        Returns
        -------
        dict of str to Tensor
            The metrics of the step, ``(chain,)`` each; empty unless ``save_metrics`` is set.
        """
        settings, weights = self._settings, self._weights
        gradients = weights.gradients()
        noise: Iterable[Tensor] = weights.noise(self._generators, settings.noise_level)
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
