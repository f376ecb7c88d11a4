"""Losses whose curvature, gradient noise and learning coefficient are known: powers of weights, and noise linear in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

#: Curvatures in two tensors; four weights, a learning coefficient of 2.
CURVATURES = ((1.0, 0.5), (0.25, 0.6))
#: Forty weights: their coefficient of 20 is known from few draws.
MANY = tuple(tuple(0.25 + 0.75 * n / 39 for n in part) for part in (range(20), range(20, 40)))


class Bowl(nn.Module):
    """Two tensors of weights, all at one value."""

    def __init__(self, centre: float = 0.0, size: int = 2) -> None:
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.full((size,), centre)) for _ in range(2))


def bowl_loss(
    degree: int = 2, curvatures: Sequence[Sequence[float]] = CURVATURES
) -> Callable[[nn.Module, Any], Tensor]:
    """Return the loss: half the sum of h times a power of each weight, and of each row a slope times the weights."""

    def loss(model: nn.Module, batch: Any) -> Tensor:
        (slopes,) = batch
        weights = torch.cat([model.first, model.second])
        scales = torch.tensor([h for part in curvatures for h in part])
        return 0.5 * (scales * weights**degree).sum() + slopes @ weights

    return loss


def rows(num: int = 16, noise: float = 0.0, num_weights: int = 4) -> tuple[Tensor]:
    """Return slopes of rows, with mean zero and a standard deviation of `noise`."""
    slopes = torch.randn((num, num_weights), generator=torch.Generator().manual_seed(0))
    return (noise * (slopes - slopes.mean(0)),)
