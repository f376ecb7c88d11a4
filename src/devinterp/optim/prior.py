"""The pulls towards a centre that an optimizer adds to the gradient of the loss."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor

Center = Literal["initial"] | Iterable[Tensor] | Real | None


class Prior:
    """What has a gradient beside that of the loss; other priors derive from it."""

    def initialize(self, params: Sequence[Tensor]) -> dict[Tensor, dict[str, Any]]:
        """Return what is to be remembered of each parameter at the start."""
        return {}

    def grad(self, param: Tensor, state: dict[str, Any]) -> Tensor:
        """Return the gradient of minus the logarithm of the density."""
        raise NotImplementedError

    def distance_sq(self, param: Tensor, state: dict[str, Any], scale: Any = 1.0) -> Tensor:
        """Return the squared distance from the centre, zero where there is none."""
        return torch.zeros((), device=param.device)


class GaussianPrior(Prior):
    r"""The density :math:`e^{-\gamma |w - w_c|^2 / 2}`.

    Parameters
    ----------
    localization : float
        :math:`\gamma`.
    center : "initial", float, iterable of Tensor or None, default: "initial"
        :math:`w_c`: where the parameters are at the first step, a number, one tensor for each, or None for zero.
    key : str, default: "prior_center"
        Under which name the centre is remembered.
    """

    def __init__(self, localization: float, center: Center = "initial", key: str = "prior_center") -> None:
        self.localization, self.key = localization, key
        self.center = list(center) if isinstance(center, Iterable) and not isinstance(center, str) else center

    def initialize(self, params: Sequence[Tensor]) -> dict[Tensor, dict[str, Any]]:
        """Return the centre of each parameter."""
        centers: Iterable[Any]
        params = list(params)
        if isinstance(self.center, list):
            centers = self.center
        elif self.center == "initial":
            centers = [param.detach().clone() for param in params]
        else:
            centers = [self.center] * len(params)
        return {param: {self.key: center} for param, center in zip(params, centers, strict=True)}

    def grad(self, param: Tensor, state: dict[str, Any]) -> Tensor:
        """Return the pull towards the centre."""
        center = state.get(self.key)
        return self.localization * (param.detach() if center is None else param.detach() - center)

    def distance_sq(self, param: Tensor, state: dict[str, Any], scale: Any = 1.0) -> Tensor:
        """Return the squared distance from the centre, each coordinate times `scale`."""
        center = state.get(self.key)
        offset = param.detach() if center is None else param.detach() - center
        return ((offset * (1.0 if scale is None else scale)) ** 2).sum()


class UniformPrior(Prior):
    """A constant density; a box around the initial weights is set by ``bounding_box_size`` of the optimizer.

    Parameters
    ----------
    box_size : float, default: inf
        Half the side of the box.
    """

    def __init__(self, box_size: float = float("inf")) -> None:
        self.box_size = box_size

    def grad(self, param: Tensor, state: dict[str, Any]) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(param)


class CompositePrior(Prior):
    """The product of several densities.

    Parameters
    ----------
    priors : list of Prior
        The factors.
    """

    def __init__(self, priors: list[Prior]) -> None:
        self.priors = list(priors)

    def initialize(self, params: Sequence[Tensor]) -> dict[Tensor, dict[str, Any]]:
        """Return what each factor remembers."""
        params = list(params)
        state: dict[Tensor, dict[str, Any]] = {param: {} for param in params}
        for number, prior in enumerate(self.priors):
            for param, own in prior.initialize(params).items():
                state[param][f"prior_{number}"] = own
        return state

    def grad(self, param: Tensor, state: dict[str, Any]) -> Tensor:
        """Return the sum of the gradients."""
        parts = [prior.grad(param, state.get(f"prior_{number}", {})) for number, prior in enumerate(self.priors)]
        return sum(parts[1:], parts[0]) if parts else torch.zeros_like(param)

    def distance_sq(self, param: Tensor, state: dict[str, Any], scale: Any = 1.0) -> Tensor:
        """Return the sum of the squared distances."""
        parts = [p.distance_sq(param, state.get(f"prior_{n}", {}), scale) for n, p in enumerate(self.priors)]
        return sum(parts[1:], parts[0]) if parts else torch.zeros((), device=param.device)
