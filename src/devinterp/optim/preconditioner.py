"""How the parts of a step are scaled, coordinate by coordinate."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from devinterp.errors import InvalidInputError

Scale = float | Tensor


class PreconditionerCoefs(NamedTuple):
    """Factors of the parts of a step.

    Parameters
    ----------
    grad_coef, prior_coef, noise_coef : float or Tensor
        Of the gradient of the loss, of the prior's, and of the noise.
    overall_coef : float or Tensor
        Of the whole step.
    grad_correction : float, Tensor or None
        Added to the scaled gradient.
    """

    grad_coef: Scale
    prior_coef: Scale
    noise_coef: Scale
    overall_coef: Scale
    grad_correction: Scale | None = None

    def combine_with(self, other: PreconditionerCoefs) -> PreconditionerCoefs:
        """Return the product of the factors, and the sum of the corrections."""
        corrections = [each for each in (self.grad_correction, other.grad_correction) if each is not None]
        return PreconditionerCoefs(
            self.grad_coef * other.grad_coef,
            self.prior_coef * other.prior_coef,
            self.noise_coef * other.noise_coef,
            self.overall_coef * other.overall_coef,
            sum(corrections[1:], corrections[0]) if corrections else None,
        )

    @classmethod
    def combine(cls, *coefs: PreconditionerCoefs) -> PreconditionerCoefs:
        """Return the product of several."""
        combined = cls(1.0, 1.0, 1.0, 1.0, None)
        for each in coefs:
            combined = combined.combine_with(each)
        return combined


class Preconditioner:
    """What scales a step; others derive from it."""

    def get_coefficients(self, param: Tensor, grad: Tensor, state: dict[str, Any]) -> PreconditionerCoefs:
        """Return the factors of a parameter's next step; `state` is kept from step to step."""
        raise NotImplementedError


class IdentityPreconditioner(Preconditioner):
    """No scaling."""

    def get_coefficients(self, param: Tensor, grad: Tensor, state: dict[str, Any]) -> PreconditionerCoefs:
        """Return ones."""
        return PreconditionerCoefs(1.0, 1.0, 1.0, 1.0, None)


class MaskPreconditioner(Preconditioner):
    """Steps of some elements only.

    Parameters
    ----------
    masks : list of Tensor or float
        For each parameter, in the order of the optimizer's.
    """

    def __init__(self, masks: list[Tensor | float]) -> None:
        self.masks = list(masks)

    def get_coefficients(self, param: Tensor, grad: Tensor, state: dict[str, Any]) -> PreconditionerCoefs:
        """Return the mask as the factor of the whole step."""
        if "param_idx" not in state:
            raise ValueError("param_idx not found in state dict")
        mask = self.masks[state["param_idx"]]
        factor = torch.as_tensor(mask).to(param.device, param.dtype) if isinstance(mask, Tensor) else mask
        return PreconditionerCoefs(1.0, 1.0, 1.0, factor, None)


class CompositePreconditioner(Preconditioner):
    """Several scalings, one after the other.

    Parameters
    ----------
    preconditioners : list of Preconditioner
        The scalings.
    """

    def __init__(self, preconditioners: list[Preconditioner]) -> None:
        self.preconditioners = list(preconditioners)

    def get_coefficients(self, param: Tensor, grad: Tensor, state: dict[str, Any]) -> PreconditionerCoefs:
        """Return the product of all factors."""
        return PreconditionerCoefs.combine(*(p.get_coefficients(param, grad, state) for p in self.preconditioners))


class RMSpropPreconditioner(Preconditioner):
    r"""The scaling :math:`G = 1 / (\sqrt{V} + \mathrm{eps})` with :math:`V` a running mean of squared gradients.

    Parameters
    ----------
    alpha : float, default: 0.99
        Decay of the mean.
    eps : float, default: 0.1
        Added to its root.
    add_grad_correction : bool, default: False
        Refused here; the kernel ``"rmsprop_sgld"`` has it as ``gamma=True``.

    Raises
    ------
    InvalidInputError
        If the correction is asked for.
    """

    def __init__(self, alpha: float = 0.99, eps: float = 0.1, add_grad_correction: bool = False) -> None:
        if add_grad_correction:
            raise InvalidInputError(
                "`add_grad_correction` is not available in the optimizer: sample with sampling_method='rmsprop_sgld' and "
                "sampling_method_kwargs={'gamma': True}."
            )
        self.alpha, self.eps = alpha, eps

    def get_coefficients(self, param: Tensor, grad: Tensor, state: dict[str, Any]) -> PreconditionerCoefs:
        """Return the factors, after taking in the gradient."""
        average = state.setdefault("square_avg", torch.zeros_like(grad))
        average.mul_(self.alpha).addcmul_(grad, grad, value=1 - self.alpha)
        scale = 1 / (average.sqrt() + self.eps)
        return PreconditionerCoefs(scale, scale, scale.sqrt(), 1.0, None)


class NHTPreconditioning(Preconditioner):
    """Says that the steps are those of the kernel ``"sgnht"``, a Nosé-Hoover thermostat.

    Parameters
    ----------
    diffusion_factor : float, default: 0.01
        The friction at the start, the kernel's ``diffusion``.
    eps : float, default: 1e-8
        Ignored.
    """

    def __init__(self, diffusion_factor: float = 0.01, eps: float = 1e-8) -> None:
        self.diffusion_factor, self.eps = diffusion_factor, eps

    def get_coefficients(self, param: Tensor, grad: Tensor, state: dict[str, Any]) -> PreconditionerCoefs:
        """Refuse: a thermostat has velocities, and is no scaling."""
        raise InvalidInputError(
            "`NHTPreconditioning` is no scaling of a step: use it alone in `SGMCMC`, or `SGMCMC.sgnht`."
        )
