"""A kernel at work on the weights of one chain, or of several that advance together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from devinterp.errors import StoreError
from devinterp.sampling.chains import step_metrics as metrics
from devinterp.sampling.chains.mala import Proposal, mean_loss
from devinterp.sampling.engines.weights import SampledWeights
from devinterp.sampling.settings import Settings
from devinterp.types import Transition


class Stepper:
    """Moves weights step by step, from where chains start.

    Parameters
    ----------
    transition : Transition
        The kernel.
    weights : SampledWeights
        What moves. Put where the chains start: at the starting weights, plus ``init_noise`` if that is set.
    settings : Settings
        Of the run.
    chains : sequence of int
        Which chains. The noise of each comes from a generator seeded ``init_seed + chain``.
    """

    def __init__(
        self, transition: Transition, weights: SampledWeights, settings: Settings, *, chains: Sequence[int]
    ) -> None:
        self._transition, self._weights, self._settings = transition, weights, settings
        self._generators = put_at_start(weights, settings, chains)
        self._state = transition.init(weights.values)

    @torch.no_grad()
    def step(self, losses: Tensor | None = None, again: Callable[[], Tensor] | None = None) -> dict[str, Tensor]:
        """Take one step with the gradients that are on the model now, and clear them.

        Parameters
        ----------
        losses : Tensor, optional
            Losses of the step's minibatches, ``(chain, batch, *loss_dims)``.
        again : callable, optional
            Computes the gradients of the same minibatches anew, where the step has led to, and returns the losses there.
            Called only where ``mala_acceptance`` is recorded; that is left out without it.

        Returns
        -------
        dict of str to Tensor
            The metrics of the step, ``(chain,)`` each; empty unless ``save_metrics`` is set.
        """
        settings, weights = self._settings, self._weights
        gradients = weights.gradients()
        noise: Iterable[Tensor] = weights.noise(self._generators, settings.noise_level)
        measured: dict[str, Tensor] = {}
        before = (self._transition, weights.values, gradients, weights.origin, self._state)
        if set(settings.metric_names) - {metrics.MALA}:
            noise = list(noise)  # measured first, used after
            scale = settings.lr / 2 * settings.n_beta
            measured = metrics.step_metrics(*before, noise, scale=scale, names=settings.metric_names)
        proposal = None
        if metrics.MALA in settings.metric_names and losses is not None and again is not None:
            proposal = Proposal(*before, mean_loss(losses, settings.batches_per_step), settings)
        self._transition.update(weights.values, gradients, weights.origin, self._state, noise)
        if settings.bounding_box_size is not None:
            weights.clamp(settings.bounding_box_size)
        weights.store()
        if proposal is not None and again is not None:
            with torch.enable_grad():
                losses = again()
            loss = mean_loss(losses, settings.batches_per_step)
            measured[metrics.MALA] = proposal.acceptance(weights.values, weights.gradients(), loss)
        return {name: measured[name] for name in settings.metric_names if name in measured}

    def save(self) -> dict[str, list[np.ndarray]]:
        """Return a copy of everything the next step depends on, on the host."""
        return {name: [_to_array(tensor) for tensor in tensors] for name, tensors in self._parts().items()}

    @torch.no_grad()
    def restore(self, saved: Mapping[str, Sequence[np.ndarray]]) -> None:
        """Go on from what `save` gave.

        Raises
        ------
        StoreError
            If it is of another kernel or of other weights; nothing is changed then.
        """
        parts = self._parts()
        expected = {name: [(tuple(a.shape), a.dtype) for a in map(_to_array, ts)] for name, ts in parts.items()}
        got = {name: [(tuple(a.shape), a.dtype) for a in arrays] for name, arrays in saved.items()}
        if expected != got:
            wrong = next(name for name in {**expected, **got} if expected.get(name) != got.get(name))
            raise StoreError(
                f"the saved state of these chains does not fit: {wrong!r} differs. Sample into another store."
            )
        for name, tensors in parts.items():
            for tensor, array in zip(tensors, saved[name], strict=True):
                tensor.copy_(_from_array(array, tensor))
        for generator, state in zip(self._generators, parts[_GENERATORS], strict=True):
            generator.set_state(state)
        if self._weights.in_training:
            torch.default_generator.set_state(parts[_SURROUNDINGS][0])
        self._weights.store()

    def _parts(self) -> dict[str, list[Tensor]]:
        """Return the tensors that make the state; those of generators are copies."""
        return {
            "values": list(self._weights.values),
            **{f"kernel.{name}": list(tensors) for name, tensors in self._state.items()},
            _GENERATORS: [generator.get_state() for generator in self._generators],
            _SURROUNDINGS: [torch.default_generator.get_state()] if self._weights.in_training else [],
            "buffers": self._weights.buffers(),
        }


_GENERATORS, _SURROUNDINGS = "generators", "global_generator"


def put_at_start(weights: SampledWeights, settings: Settings, chains: Sequence[int]) -> list[torch.Generator]:
    """Put weights where chains start: at w0, plus ``init_noise`` if that is set; return the generators of their noise."""
    generators = [torch.Generator(weights.device).manual_seed(settings.init_seed + chain) for chain in chains]
    weights.reset()
    if weights.in_training:
        # So that a chain does not depend on what ran before it; the global generator is ours inside `sheltered`.
        torch.default_generator.manual_seed(settings.init_seed + chains[0])
    if settings.init_noise is not None:
        weights.add(weights.noise(generators, settings.init_noise))
    return generators


def _to_array(tensor: Tensor) -> np.ndarray:
    """Return a copy as numpy has it; dtypes that numpy lacks (bfloat16) as bytes."""
    host = tensor.detach().cpu().contiguous()
    try:
        array: np.ndarray = host.numpy()
    except TypeError:
        array = host.reshape(-1).view(torch.uint8).numpy()
    return array.copy()


def _from_array(array: np.ndarray, like: Tensor) -> Tensor:
    found = torch.from_numpy(array)
    return found if found.dtype == like.dtype else found.view(like.dtype).reshape(like.shape)
