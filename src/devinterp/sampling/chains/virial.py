r"""What tells whether chains are at their temperature: dot products of the way from w0 with the gradient, at draws.

For a density :math:`e^{-U}` that falls off, and any vector field :math:`\varphi` that does not grow too fast, integration by
parts gives

.. math:: \mathrm{E}[\varphi \cdot \nabla U] = \mathrm{E}[\nabla \cdot \varphi].

With :math:`\varphi = w - w_0` the right side is the number of sampled weights, whatever the loss; it holds for each parameter
tensor by itself, too. The gradient is that of the step's minibatch: its noise is independent of the weights before the step.

In a bounding box of size s the density ends at the walls, and the boundary adds a term. There
:math:`\varphi_i = d_i (1 - u_i)^2` with :math:`d = w - w_0` and :math:`u_i = d_i^2 / s^2` is used. Far from the walls it is
:math:`d`; on them it and its divergence :math:`\sum_i (1 - u_i) (1 - 5 u_i)` are zero, so that weights which a step has put
right onto a wall do not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from devinterp.types import StepInputs, Target

#: Up to so many elements of a chain all parameters are taken together: calls cost more than their arithmetic then.
_MAX_JOINED = 2**16


@dataclass(frozen=True)
class Virial:
    r"""Dot products at the weights before a step, for each parameter tensor, ``(chain, parameter)`` each.

    Parameters
    ----------
    total : Tensor
        :math:`\varphi \cdot \nabla U`, with the gradient of the step's minibatch.
    gradient : Tensor
        :math:`(w - w_0) \cdot g`, with g the gradient of the minibatch loss.
    square : Tensor
        :math:`|w - w_0|^2`.
    volume : Tensor or None
        :math:`\nabla \cdot \varphi` in a bounding box; without one it is the number of sampled weights.
    """

    total: Tensor
    gradient: Tensor
    square: Tensor
    volume: Tensor | None


@torch.no_grad()
def virial(step: StepInputs, target: Target, box: float | None) -> Virial:
    """Return the dot products of the step a kernel is about to take.

    Parameters
    ----------
    step : StepInputs
        The step; its noise is not drawn.
    target : Target
        The posterior.
    box : float or None
        Size of the bounding box.
    """
    columns = zip(*_all_products(step, decays=bool(target.weight_decay), box=box), strict=True)
    # Of all parameters at once, because on small tensors the calls cost more than the arithmetic.
    slope, square, *rest = (torch.cat(each, 1) for each in columns)
    along, pull = (slope, square) if box is None else (rest[0], rest[1])
    total = target.n_beta * along + target.localization * pull
    if target.weight_decay:
        total += target.weight_decay * rest[-1]
    return Virial(total, slope, square, None if box is None else rest[2])


def _all_products(step: StepInputs, *, decays: bool, box: float | None) -> Iterator[list[Tensor]]:
    """Yield `_products` of one parameter after the other, or of all together where they are small."""
    lists = (step.values, step.gradients, step.initial_weights)
    num = len(step.values[0])
    sizes = [value.numel() // num for value in step.values]
    if sum(sizes) <= _MAX_JOINED and len({tensor.dtype for tensors in lists for tensor in tensors}) == 1:
        value, gradient, initial = (
            torch.cat([tensor.reshape(tensor.shape[0], -1) for tensor in tensors], 1) for tensors in lists
        )
        yield _products(value, gradient, initial, sizes, decays=decays, box=box)
        return
    for parts in zip(*lists, sizes, strict=True):
        value, gradient, initial = (tensor.reshape(len(tensor), -1) for tensor in parts[:3])
        yield _products(value, gradient, initial, [parts[3]], decays=decays, box=box)


def _products(
    value: Tensor, gradient: Tensor, initial: Tensor, sizes: Sequence[int], *, decays: bool, box: float | None
) -> list[Tensor]:
    """Return d.g and d.d; in a box field.g, field.d and the divergence; with decay field.w; ``(chain, parameter)`` each.

    Parameters
    ----------
    value, gradient, initial : Tensor
        ``(chain, element)``, the elements of some parameters behind each other.
    sizes : sequence of int
        How many each has.
    decays, box
        Whether there is weight decay, and a bounding box of this size.
    """
    offset = value - initial
    pairs = [(offset, gradient), (offset, offset)]
    field = offset
    if box is not None:
        inside = 1 - (offset / box).square_()
        field = offset * inside * inside
        pairs += [(field, gradient), (field, offset), (inside, 5 * inside - 4)]
    if decays:
        pairs.append((field, value))
    if len(sizes) == 1:
        return [_dot(a, b).unsqueeze(1) for a, b in pairs]
    elements = torch.cat([a * b for a, b in pairs])
    sums = torch.stack([part.sum(1) for part in torch.split(elements, list(sizes), 1)], 1)
    return list(sums.chunk(len(pairs)))


@torch.no_grad()
def virial_along(step: StepInputs, target: Target, vectors: Sequence[Tensor]) -> Tensor:
    r"""Return :math:`(u \cdot (w - w_0)) (u \cdot \nabla U)` for unit vectors u, ``(chain, direction)``; without a box.

    Parameters
    ----------
    step : StepInputs
        The step a kernel is about to take.
    target : Target
        The posterior.
    vectors : sequence of Tensor
        For each parameter the components of each restriction's vectors, ``(restriction, direction, element)``.
    """
    moved: Tensor | float = 0.0
    force: Tensor | float = 0.0
    for value, gradient, initial, vector in zip(
        step.values, step.gradients, step.initial_weights, vectors, strict=True
    ):
        offset = _along(value - initial, vector)
        moved = moved + offset
        force = force + target.n_beta * _along(gradient, vector) + target.localization * offset
        if target.weight_decay:
            force = force + target.weight_decay * _along(value, vector)
    return torch.as_tensor(moved * force)


def _along(weights: Tensor, vectors: Tensor) -> Tensor:
    """Return the components of each chain's weights along its restriction's vectors, ``(chain, direction)``."""
    chains = weights.reshape(len(vectors), -1, vectors.shape[-1])  # the chains of each restriction after each other
    return (chains @ vectors.to(chains.dtype).transpose(1, 2)).flatten(0, 1)


@torch.no_grad()
def square_distance(values: Iterable[Tensor], initial_weights: Iterable[Tensor]) -> Tensor:
    """Return :math:`|w - w_0|^2` of each chain, ``(chain,)``, in float64."""
    # One parameter after another, so that no more than one offset is in memory.
    offsets = (value - initial for value, initial in zip(values, initial_weights, strict=True))
    return torch.stack([_dot(offset, offset) for offset in offsets]).double().sum(0)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the dot product of each chain, ``(chain,)``."""
    if len(a) == 1:
        return torch.dot(a.reshape(-1), b.reshape(-1)).view(1)  # the fastest of the ways to compute it
    dots: Tensor = torch.linalg.vecdot(a.reshape(len(a), -1), b.reshape(len(b), -1))
    return dots
