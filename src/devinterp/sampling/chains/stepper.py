"""Moving the weights of one chain, or of several that advance together, with a kernel; saving and restoring their state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from devinterp.errors import StoreError
from devinterp.sampling.chains.mala import Proposal, mean_loss
from devinterp.sampling.chains.step_metrics import step_metrics
from devinterp.sampling.engines.weights import SampledWeights
from devinterp.sampling.settings import Settings
from devinterp.schema import MALA_ACCEPTANCE
from devinterp.types import StepInputs, Transition


class Stepper:
    """Moves the weights of chains step by step, beginning where chains start.

    Parameters
    ----------
    transition : Transition
        The kernel.
    weights : SampledWeights
        The sampled parameters. They are set to where chains start: the initial weights, plus ``init_noise`` if that is set.
    settings : Settings
        Settings of the run.
    chains : sequence of int
        Numbers of the chains. The noise of each comes from a generator seeded ``init_seed + chain``.
    """

    def __init__(
        self, transition: Transition, weights: SampledWeights, settings: Settings, *, chains: Sequence[int]
    ) -> None:
        self._transition, self._weights, self._settings = transition, weights, settings
        self._generators = put_at_start(weights, settings, chains)
        self._state = transition.init(weights.values)

    @torch.no_grad()
    def step(
        self,
        losses: Tensor | None = None,
        again: Callable[[], Tensor] | None = None,
        before: Callable[[StepInputs], object] | None = None,
    ) -> dict[str, Tensor]:
        """Take one step with the gradients that the model holds, and clear them.

        Parameters
        ----------
        losses : Tensor, optional
            Losses of the step's minibatches, ``(chain, batch, *loss_dims)``.
        again : callable, optional
            Computes the gradients of the same minibatches once more, at the weights after the step, and returns the losses
            there. Called only where ``mala_acceptance`` is recorded; without it that metric is missing.
        before : callable, optional
            Is given the step before it is taken, to measure it; it must not draw the noise.

        Returns
        -------
        dict of str to Tensor
            The metrics of the step, ``(chain,)`` each; empty unless ``save_metrics`` is set.
        """
        settings, weights = self._settings, self._weights
        noise: Iterable[Tensor] = weights.noise(self._generators, settings.noise_level)
        if set(settings.metric_names) - {MALA_ACCEPTANCE}:
            noise = list(noise)  # the metrics read it before the step does
        gradients = weights.gradients()
        if settings.max_grad_norm is not None:
            clip_gradients(gradients, settings.max_grad_norm)
        inputs = StepInputs(weights.values, gradients, weights.initial_weights, self._state, noise)
        if before is not None:
            before(inputs)
        measured: dict[str, Tensor] = {}
        if isinstance(noise, list):
            scale = settings.lr / 2 * settings.n_beta
            measured = step_metrics(self._transition, inputs, scale=scale, names=settings.metric_names)
        proposal = None
        if MALA_ACCEPTANCE in settings.metric_names and losses is not None and again is not None:
            loss = mean_loss(losses, settings.batches_per_step)
            proposal = Proposal(self._transition, inputs, loss, settings)
        self._transition.update(inputs)
        if settings.bounding_box_size is not None:
            weights.clamp(settings.bounding_box_size)
        weights.store()
        if proposal is not None and again is not None:
            with torch.enable_grad():
                losses = again()
            loss = mean_loss(losses, settings.batches_per_step)
            measured[MALA_ACCEPTANCE] = proposal.acceptance(weights.values, weights.gradients(), loss)
        return {name: measured[name] for name in settings.metric_names if name in measured}

    def save(self) -> dict[str, list[np.ndarray]]:
        """Return a copy of everything that the next step depends on, as numpy arrays."""
        return {name: [_to_array(tensor) for tensor in tensors] for name, tensors in self._parts().items()}

    @torch.no_grad()
    def restore(self, saved: Mapping[str, Sequence[np.ndarray]]) -> None:
        """Put weights, kernel and generators into a state that `save` returned.

        Raises
        ------
        StoreError
            If the state is of another kernel or of other weights; nothing is changed then.
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
        for generator, state in zip(self._generators, parts["generators"], strict=True):
            generator.set_state(state)
        if self._weights.in_training:
            torch.default_generator.set_state(parts["global_generator"][0])
        self._weights.store()

    def _parts(self) -> dict[str, list[Tensor]]:
        """Return the tensors that make the state, by name; those of generators are copies."""
        return {
            "values": list(self._weights.values),
            **{f"kernel.{name}": list(tensors) for name, tensors in self._state.items()},
            "generators": [generator.get_state() for generator in self._generators],
            "global_generator": [torch.default_generator.get_state()] if self._weights.in_training else [],
            "buffers": self._weights.buffers(),
        }


def clip_gradients(gradients: Sequence[Tensor], max_norm: float) -> None:
    r"""Scale the gradients of each chain, in place, so that their norm over all sampled weights is at most a limit.

    .. math:: g \leftarrow g \cdot \min\left(1, \frac{c}{|g| + 10^{-6}}\right)

    as `torch.nn.utils.clip_grad_norm_` does for one model.

    Parameters
    ----------
    gradients : sequence of Tensor
        Of the minibatch loss, ``(chain, *shape)`` each.
    max_norm : float
        :math:`c > 0`.
    """
    squares = torch.stack([gradient.reshape(len(gradient), -1).square().sum(1) for gradient in gradients])
    factors = (max_norm / (squares.sum(0).sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factors.view(-1, *[1] * (gradient.ndim - 1)).to(gradient.dtype))


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
    """Return a copy as a numpy array; of dtypes that numpy lacks (bfloat16) the bytes."""
    host = tensor.detach().cpu().contiguous()
    try:
        array: np.ndarray = host.numpy()
    except TypeError:
        array = host.reshape(-1).view(torch.uint8).numpy()
    return array.copy()


def _from_array(array: np.ndarray, like: Tensor) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor if tensor.dtype == like.dtype else tensor.view(like.dtype).reshape(like.shape)
