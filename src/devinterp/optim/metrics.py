"""What an optimizer measures of its last step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import ClassVar

import torch
from torch import Tensor


def _zero() -> Tensor:
    return torch.zeros(1)


@dataclass
class Metrics:
    """Norms of the parts of a step, the dot products between them, and the distance from the initial weights before it.

    Parameters
    ----------
    scaled_grad, unscaled_grad, localization, weight_decay, noise, distance : Tensor
        Norms, ``(1,)``: of the descended gradient with and without preconditioner, of both pulls, of the noise; and the
        distance.
    dot_grad_prior, dot_grad_noise, dot_prior_noise : Tensor
        Dot products, ``(1,)``, between gradient and pulls as descended and the noise as added.
    numel : int
        Number of sampled weights.
    """

    NORM_FIELDS: ClassVar[tuple[str, ...]] = (
        "scaled_grad",
        "unscaled_grad",
        "localization",
        "weight_decay",
        "noise",
        "distance",
    )
    DOT_FIELDS: ClassVar[tuple[str, ...]] = ("dot_grad_prior", "dot_grad_noise", "dot_prior_noise")

    scaled_grad: Tensor = field(default_factory=_zero)
    unscaled_grad: Tensor = field(default_factory=_zero)
    localization: Tensor = field(default_factory=_zero)
    weight_decay: Tensor = field(default_factory=_zero)
    noise: Tensor = field(default_factory=_zero)
    distance: Tensor = field(default_factory=_zero)
    dot_grad_prior: Tensor = field(default_factory=_zero)
    dot_grad_noise: Tensor = field(default_factory=_zero)
    dot_prior_noise: Tensor = field(default_factory=_zero)
    numel: int = 0

    @property
    def prior(self) -> Tensor:
        """The norm of both pulls together, if they are at right angles."""
        return (self.localization**2 + self.weight_decay**2).sqrt()

    def to(self, device: str | torch.device | int) -> Metrics:
        """Return the metrics on a device."""
        return Metrics(**{name: getattr(self, name).to(device) for name in self._tensors()}, numel=self.numel)

    def zero_(self) -> None:
        """Set all to zero."""
        for name in self._tensors():
            getattr(self, name).zero_()

    def add_sum_squared_(
        self,
        scaled_grad: Tensor,
        unscaled_grad: Tensor,
        localization: Tensor,
        weight_decay: Tensor,
        noise: Tensor,
        distance: Tensor,
    ) -> None:
        """Add the sums of squares of a parameter's parts; `sqrt_norms_` makes norms of them."""
        parts = (scaled_grad, unscaled_grad, localization, weight_decay, noise, distance)
        for name, part in zip(self.NORM_FIELDS, parts, strict=True):
            getattr(self, name).add_((part**2).sum())

    def add_dot_products_(self, scaled_grad: Tensor, prior: Tensor, noise: Tensor) -> None:
        """Add the dot products of a parameter's parts."""
        pairs = ((scaled_grad, prior), (scaled_grad, noise), (prior, noise))
        for name, (one, other) in zip(self.DOT_FIELDS, pairs, strict=True):
            getattr(self, name).add_((one * other).sum())

    def sqrt_norms_(self) -> None:
        """Make norms of sums of squares."""
        for name in self.NORM_FIELDS:
            getattr(self, name).sqrt_()

    @staticmethod
    def aggregate(group_metrics: Iterable[Metrics]) -> Metrics:
        """Return the metrics of several groups of parameters together."""
        total = Metrics()
        for group in group_metrics:
            for name in Metrics.NORM_FIELDS:
                setattr(total, name, (getattr(total, name) ** 2 + getattr(group, name) ** 2).sqrt())
            for name in Metrics.DOT_FIELDS:
                setattr(total, name, getattr(total, name) + getattr(group, name))
            total.numel += group.numel
        return total

    def _tensors(self) -> list[str]:
        return [each.name for each in fields(self) if each.name != "numel"]
