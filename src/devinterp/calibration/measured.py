"""What is measured at the weights of a checkpoint under one weight restriction, before any chain is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Measured:
    r"""Curvature and gradient noise at w0.

    Parameters
    ----------
    checkpoint, restriction : str
        Of what; the checkpoint is empty where there is one only.
    num_parameters : int
        Number d of sampled weights.
    h_max : float
        Largest second derivative of the loss at w0, in any direction.
    curvatures : mapping of float to float
        By ``n_beta``, the largest mean second derivative over the way that chains go: three standard deviations of the
        posterior to either side. On a quadratic it is `h_max`.
    noise : float
        :math:`\sigma_g^2`, the variance of one row's gradient, for each weight on average.
    noise_along : float
        The same along the stiffest direction.
    gradient_square : float
        :math:`|\nabla L(w_0)|^2`, without the noise of minibatches; may come out below zero by chance.
    num_gradients : int
        Gradients of minibatches that this took.
    """

    checkpoint: str
    restriction: str
    num_parameters: int
    h_max: float
    curvatures: Mapping[float, float]
    noise: float
    noise_along: float
    gradient_square: float
    num_gradients: int

    def curvature(self, n_beta: float) -> float:
        """Return the largest second derivative that steps must be small against, at an inverse temperature; at least 0."""
        return max(self.h_max, self.curvatures[n_beta], 0.0)

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able values."""
        return {**asdict(self), "curvatures": list(self.curvatures.items())}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Measured:
        """Return what `to_json` made values of."""
        return cls(**{**values, "curvatures": {float(n): float(h) for n, h in values["curvatures"]}})
