"""The weights that move, as float32 master values beside (or inside) the caller's model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from devinterp.models.masks import Mask


class MovingWeights:
    """The moving elements of a model's parameters, ready for a kernel.

    `values` and `origin` are lists of tensors of shape ``(1, *shape)``: the leading dimension is the kernel's chain
    dimension. Values are views of the model's own parameters where these are float32 and move whole or in one contiguous
    block; otherwise they are float32 copies, because an update below about 1/256 of a weight is lost in bfloat16, and
    `store` writes them back.

    Parameters
    ----------
    model : torch.nn.Module
        The caller's model, which is moved in place; see `borrowed`.
    masks : mapping of str to Mask
        What moves, by parameter name, in the order in which noise is drawn.
    """

    def __init__(self, model: nn.Module, masks: Mapping[str, Mask]) -> None:
        parameters = dict(model.named_parameters(remove_duplicate=False))
        self.names = list(masks)
        self.masks = list(masks.values())
        self.parameters = [parameters[name] for name in masks]
        with torch.no_grad():
            taken = [m.take(p.detach()) for m, p in zip(self.masks, self.parameters, strict=True)]
            self.values = [t.to(_master_dtype(t.dtype)).unsqueeze(0) for t in taken]
            self.origin = [value.clone() for value in self.values]
        self._aliased = [_shares(v, p) for v, p in zip(self.values, self.parameters, strict=True)]

    @property
    def num_elements(self) -> int:
        """Return how many weights move."""
        return sum(mask.num_elements for mask in self.masks)

    @property
    def device(self) -> torch.device:
        """Return where the model is."""
        return self.parameters[0].device

    @torch.no_grad()
    def add(self, steps: Iterable[Tensor]) -> None:
        """Add a step to each value."""
        for value, step in zip(self.values, steps, strict=True):
            value.add_(step)
        self.store()

    @torch.no_grad()
    def store(self) -> None:
        """Write the values into the model, where they are not already part of it."""
        for mask, parameter, value, aliased in zip(
            self.masks, self.parameters, self.values, self._aliased, strict=True
        ):
            if not aliased:
                mask.put_(parameter.detach(), value[0])

    @torch.no_grad()
    def clamp(self, size: float) -> None:
        """Clamp every value to within `size` of where it started."""
        for value, start in zip(self.values, self.origin, strict=True):
            torch.maximum(torch.minimum(value, start + size, out=value), start - size, out=value)

    @torch.no_grad()
    def reset(self) -> None:
        """Put the weights back to where they started."""
        for value, start in zip(self.values, self.origin, strict=True):
            value.copy_(start)
        self.store()

    @torch.no_grad()
    def gradients(self) -> list[Tensor]:
        """Return the gradients of what moves, ``(1, *shape)`` each, and take them off the model."""
        gradients = []
        for mask, parameter, value in zip(self.masks, self.parameters, self.values, strict=True):
            gradient, parameter.grad = parameter.grad, None
            taken = torch.zeros_like(value) if gradient is None else mask.take(gradient).to(value.dtype).unsqueeze(0)
            gradients.append(taken)
        return gradients

    def noise(self, generator: torch.Generator, level: float) -> Iterator[Tensor]:
        """Yield normal noise for each parameter, ``(1, *shape)``.

        Drawn for the whole parameter and cut to what moves, as v2 does: the stream does not depend on the mask.
        """
        for mask, parameter, value in zip(self.masks, self.parameters, self.values, strict=True):
            whole = torch.empty(parameter.shape, dtype=value.dtype, device=value.device).normal_(generator=generator)
            noise = mask.take(whole).unsqueeze(0)
            yield noise if level == 1 else noise.mul_(level)


def _master_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _shares(value: Tensor, parameter: Tensor) -> bool:
    return value.untyped_storage().data_ptr() == parameter.untyped_storage().data_ptr()


@contextmanager
def borrowed(model: nn.Module, masks: Mapping[str, Mask]) -> Iterator[MovingWeights]:
    """Lend a model for sampling: on leaving, whatever happens, it is byte for byte what it was.

    Inside, only parameters that move require gradients. Weights, buffers, gradients and ``requires_grad`` flags are put back.
    """
    saved = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    # Buffers can change in a forward pass (batch-norm statistics of a model in train mode); they are small.
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    for parameter, _, _ in saved:
        parameter.requires_grad_(False)
        parameter.grad = None
    weights = MovingWeights(model, masks)
    try:
        for parameter in weights.parameters:
            parameter.requires_grad_(True)
        yield weights
    finally:
        weights.reset()
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
        for parameter, requires_grad, gradient in saved:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient
