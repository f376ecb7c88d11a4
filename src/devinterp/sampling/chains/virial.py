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

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from devinterp.types import StepInputs, Target


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
    parts = zip(step.values, step.gradients, step.initial_weights, strict=True)
    columns = zip(*(_products(*each, decays=bool(target.weight_decay), box=box) for each in parts), strict=True)
    # Of all parameters at once, because on small tensors the calls cost more than the arithmetic.
    slope, square, *rest = (torch.stack(each, 1) for each in columns)
    along, pull = (slope, square) if box is None else (rest[0], rest[1])
    total = target.n_beta * along + target.localization * pull
    if target.weight_decay:
        total += target.weight_decay * rest[-1]
    return Virial(total, slope, square, None if box is None else rest[2])


def _products(
    value: Tensor, gradient: Tensor, initial: Tensor, *, decays: bool, box: float | None
) -> tuple[Tensor, ...]:
    """Return for one parameter d.g and d.d; in a box field.g, field.d and the divergence; with decay field.w."""
    offset = value - initial
    products = [_dot(offset, gradient), _dot(offset, offset)]
    field = offset
    if box is not None:
        inside = 1 - (offset / box).square_()
        field = offset * inside * inside
        divergence = (inside * (5 * inside - 4)).reshape(len(offset), -1).sum(1)
        products += [_dot(field, gradient), _dot(field, offset), divergence]
    if decays:
        products.append(_dot(field, value))
    return tuple(products)


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
