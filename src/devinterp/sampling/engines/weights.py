"""The sampled parameters, as float32 master values beside (or inside) the caller's model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn

from devinterp.models.masks.mask import Mask
from devinterp.sampling.model_guard import unchanged


class SampledWeights(ABC):
    """The sampled elements of a model's parameters, ready for a kernel.

    `values` and `initial_weights` are lists of float32 tensors of shape ``(chain, *shape)``, one for each parameter: float32
    whatever the model computes in, because an update below about 1/256 of a weight is lost in bfloat16.

    Parameters
    ----------
    model : torch.nn.Module
        The caller's model.
    masks : mapping of str to Mask
        Which elements are sampled, by parameter name, in the order in which noise is drawn.
    """

    values: list[Tensor]
    initial_weights: list[Tensor]

    def __init__(self, model: nn.Module, masks: Mapping[str, Mask]) -> None:
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self.names = list(masks)
        self.masks = list(masks.values())
        self.parameters = [parameters[name] for name in masks]
        # Layers in train mode draw random numbers and write into buffers: part of what the next step depends on.
        self.in_training = any(module.training for module in model.modules())
        self._model = model
        self._buffers_before = [buffer.clone() for buffer in self.buffers()]

    def buffers(self) -> list[Tensor]:
        """Return the model's buffers as they are now; none in eval mode, where they are constant."""
        return [buffer.detach() for buffer in self._model.buffers()] if self.in_training else []

    @property
    def device(self) -> torch.device:
        """Return where the model is."""
        return self.parameters[0].device

    @abstractmethod
    def in_model(self, wanted: Sequence[bool]) -> Generator[int, None, None]:
        """Yield the number of each wanted chain, the model being at its weights until the next is asked for.

        Parameters
        ----------
        wanted : sequence of bool
            Which chains.
        """

    def displacement(self, chain: int) -> Iterator[tuple[str, Tensor]]:
        """Yield the name of each sampled parameter and w - w0 of a chain, in its shape; zero where not sampled."""
        for name, mask, parameter, value, initial in zip(
            self.names, self._masks_of(chain), self.parameters, self.values, self.initial_weights, strict=True
        ):
            # Weights at w0 may be one for all chains.
            moved = (value[chain] - initial[chain if len(initial) > 1 else 0]).detach()
            whole = moved.new_zeros(parameter.shape)
            mask.put_(whole, moved)
            yield name, whole

    def _masks_of(self, chain: int) -> Sequence[Mask]:
        """Return which elements of each parameter are sampled in a chain."""
        return self.masks

    @abstractmethod
    def store(self) -> None:
        """Let the model see the values, where it does not already."""

    @abstractmethod
    def gradients(self) -> list[Tensor]:
        """Return the gradients of the sampled elements, ``(chain, *shape)`` each, and clear them."""

    @torch.no_grad()
    def add(self, steps: Iterable[Tensor]) -> None:
        """Add a step to each value."""
        for value, step in zip(self.values, steps, strict=True):
            value.add_(step)
        self.store()

    @torch.no_grad()
    def clamp(self, size: float) -> None:
        """Clamp every value to within `size` of its initial weight."""
        for value, initial in zip(self.values, self.initial_weights, strict=True):
            torch.maximum(torch.minimum(value, initial + size, out=value), initial - size, out=value)

    @torch.no_grad()
    def reset(self) -> None:
        """Put the weights back to the initial ones."""
        for value, initial in zip(self.values, self.initial_weights, strict=True):
            value.copy_(initial)
        for buffer, before in zip(self.buffers(), self._buffers_before, strict=True):
            if buffer.shape == before.shape and 0 not in buffer.stride():
                buffer.copy_(before)
        self.store()

    def noise(self, generators: Sequence[torch.Generator], level: float) -> Iterator[Tensor]:
        """Yield normal noise for each parameter, ``(chain, *shape)``, from a generator for each chain.

        Drawn for the whole parameter and then masked, as in v2, so that the stream does not depend on the mask.
        """
        for mask, parameter, value in zip(self.masks, self.parameters, self.values, strict=True):
            noise = torch.empty_like(value)
            if mask.is_whole:
                for part, generator in zip(noise.unbind(), generators, strict=True):
                    part.normal_(generator=generator)
            else:
                whole = torch.empty(parameter.shape, dtype=value.dtype, device=value.device)
                for part, generator in zip(noise.unbind(), generators, strict=True):
                    part.copy_(mask.take(whole.normal_(generator=generator)))
            yield noise if level == 1 else noise.mul_(level)

    def _take(self) -> list[Tensor]:
        taken = [mask.take(p.detach()) for mask, p in zip(self.masks, self.parameters, strict=True)]
        return [t.to(torch.promote_types(t.dtype, torch.float32)) for t in taken]


@final
class InPlaceWeights(SampledWeights):
    """The weights of one chain, sampled inside the model.

    Values are views of the model's own parameters where these are float32 and sampled whole or in one contiguous block;
    otherwise they are copies that `store` writes back.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Mask]) -> None:
        super().__init__(model, masks)
        self.values = [taken.unsqueeze(0) for taken in self._take()]
        self.initial_weights = [value.clone() for value in self.values]
        self._aliased = [_shares(v, p) for v, p in zip(self.values, self.parameters, strict=True)]

    def in_model(self, wanted: Sequence[bool]) -> Generator[int, None, None]:
        """Yield the chain, whose weights the model has."""
        if wanted[0]:
            yield 0

    @torch.no_grad()
    def store(self) -> None:
        """Write the values into the model, where they are not already part of it."""
        for mask, parameter, value, aliased in zip(
            self.masks, self.parameters, self.values, self._aliased, strict=True
        ):
            if not aliased:
                mask.put_(parameter.detach(), value[0])

    @torch.no_grad()
    def gradients(self) -> list[Tensor]:
        """Return the gradients of the sampled elements, ``(1, *shape)`` each, and take them off the model."""
        gradients = []
        for mask, parameter, value in zip(self.masks, self.parameters, self.values, strict=True):
            gradient, parameter.grad = dense(parameter.grad), None
            taken = torch.zeros_like(value) if gradient is None else mask.take(gradient).to(value.dtype).unsqueeze(0)
            gradients.append(taken)
        return gradients


def dense(gradient: Any) -> Any:
    """Return a gradient as a plain tensor: embeddings may make sparse ones."""
    return gradient.to_dense() if isinstance(gradient, Tensor) and gradient.layout != torch.strided else gradient


def _shares(value: Tensor, parameter: Tensor) -> bool:
    return value.untyped_storage().data_ptr() == parameter.untyped_storage().data_ptr()


@contextmanager
def borrowed(model: nn.Module, masks: Mapping[str, Mask]) -> Iterator[InPlaceWeights]:
    """Lend a model for sampling: on leaving, whatever happens, it is byte for byte what it was.

    Inside, only the sampled parameters require gradients.
    """
    with unchanged(model):
        weights = InPlaceWeights(model, masks)
        try:
            for parameter in weights.parameters:
                parameter.requires_grad_(True)
            yield weights
        finally:
            weights.reset()
