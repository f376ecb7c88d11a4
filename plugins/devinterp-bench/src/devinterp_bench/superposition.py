r"""Toy models of superposition at regular polygons, the critical points of arXiv:2310.06301.

Six sparse features :math:`x = u e_i`, with :math:`i` and :math:`u \in [0, 1]` uniform, pass through two hidden units:

.. math:: L(W, b) = \frac16 \sum_i \sum_j \int_0^1 \big( \delta_{ij} u - \mathrm{ReLU}(s_{ij} u + b_j) \big)^2 du,
    \qquad s = W^\top W,

the integrals done in closed form, so that the loss is the expectation. At a *k-gon* the first k columns of :math:`W` are the
corners of a regular polygon and the others zero. Radius and bias are those at which the gradient vanishes.

**Coefficients.** Where the loss is constant along some directions and its Hessian positive across all others, the coefficient
is half the Hessian's rank, and the rank can be counted. Of 18 parameters one is always free: rotations of the plane. At the
5-gon whose sixth bias is negative the sixth output is zero near the weights, and so is what the sixth feature does to the
others, whose biases are negative: its two weights and its bias are free too, 14 / 2 = 7 remain. With the sixth bias at 1/12,
the mean of that feature, and at the 6-gon, 17 / 2 = 8.5. `tests/test_problems.py` finds these ranks by differentiating.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
from torch import Tensor, nn

from devinterp.sampling.data.columns import Batch
from devinterp_bench.problems import NOISE_VARIANCE, Problem
from devinterp_bench.theory import Coefficient

NUM_FEATURES = 6


class Superposition(nn.Module):
    """The linear parts of a toy model of superposition, at a regular polygon.

    Parameters
    ----------
    num_corners : int
        Features that are represented.
    other_bias : float
        Bias of the features that are not.
    """

    def __init__(self, num_corners: int, other_bias: float) -> None:
        super().__init__()
        weights, bias = polygon(*radius_and_bias(num_corners), num_corners, other_bias)
        self.weights, self.bias = nn.Parameter(weights.float()), nn.Parameter(bias.float())

    def forward(self, x: Tensor) -> Tensor:
        """Return slope and offset of each output along the feature that each row of `x` selects, ``(batch, output, 2)``."""
        slopes = x @ self.weights.mT @ self.weights
        return torch.stack([slopes, self.bias.expand_as(slopes)], -1)


def superposition_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return for each feature the squared error, over its magnitude, over twice the noise variance."""
    features, _ = batch
    assert isinstance(features, Tensor)
    slopes, offsets = model(features).unbind(-1)
    return squared_errors(slopes, offsets, features).sum(-1) / (2 * NOISE_VARIANCE)


def squared_errors(slopes: Tensor, offsets: Tensor, targets: Tensor) -> Tensor:
    r"""Return :math:`\int_0^1 (t u - \mathrm{ReLU}(s u + b))^2 du`, elementwise."""
    # s u + b crosses zero at -b / s; without slope it is as if it crossed far outside of [0, 1], to which limits are held.
    divisors = torch.where(slopes.abs() > 1e-12, slopes, 1e-12)
    crossings, rises = (-offsets / divisors).clamp(0, 1), divisors > 0
    low, high = torch.where(rises, crossings, 0.0), torch.where(rises, 1.0, crossings)
    first, second, third = high - low, (high**2 - low**2) / 2, (high**3 - low**3) / 3
    squares = slopes**2 * third + 2 * slopes * offsets * second + offsets**2 * first
    return targets**2 / 3 - 2 * targets * (slopes * third + offsets * second) + squares


def polygon(radius: Tensor, bias: Tensor, num_corners: int, other_bias: float) -> tuple[Tensor, Tensor]:
    """Return the weights ``(2, feature)`` and biases ``(feature)`` of a polygon."""
    angles = 2 * math.pi * torch.arange(num_corners, dtype=radius.dtype) / num_corners
    corners = radius * torch.stack([angles.cos(), angles.sin()])
    others = NUM_FEATURES - num_corners
    weights = torch.cat([corners, corners.new_zeros(2, others)], 1)
    return weights, torch.cat([bias.expand(num_corners), bias.new_full((others,), other_bias)])


def radius_and_bias(num_corners: int) -> tuple[Tensor, Tensor]:
    """Return radius and bias of the polygon with least loss, float64."""
    features = torch.eye(NUM_FEATURES, dtype=torch.float64)

    def loss(both: Tensor) -> Tensor:
        weights, bias = polygon(both[0], both[1], num_corners, -1.0)
        slopes = features @ weights.mT @ weights
        return squared_errors(slopes, bias.expand_as(slopes), features).mean()

    both = torch.tensor([1.2, -0.4], dtype=torch.float64)
    gradient = torch.func.grad(loss)
    hessian = torch.func.jacrev(gradient)  # `torch.func.hessian` warns of what it imports
    for _ in range(20):  # Newton's method
        both = both - torch.linalg.solve(hessian(both), gradient(both))
    return both[0], both[1]


def polygons() -> list[Problem]:
    """Return the stable polygons of six features in the plane."""
    return [
        _problem("5-gon of 6 features", 5, -0.5, Fraction(7)),
        _problem("5-gon of 6 features, sixth bias 1/12", 5, 1 / 12, Fraction(17, 2)),
        _problem("6-gon of 6 features", 6, 0.0, Fraction(17, 2)),
    ]


def _problem(name: str, num_corners: int, other_bias: float, truth: Fraction) -> Problem:
    features = torch.eye(NUM_FEATURES)
    return Problem(
        name=name,
        family="toy model of superposition",
        truth=Coefficient(truth, 1),
        model=lambda: Superposition(num_corners, other_bias),
        data=lambda _: (features, features),
        loss_fn=superposition_loss,
        n_beta=1e6 * NOISE_VARIANCE,
        # The free weights of the sixth feature must stay below 0.24, where it begins to be seen in the other outputs.
        localization=300.0,
        stiffness=1.0 / NOISE_VARIANCE,
    )
