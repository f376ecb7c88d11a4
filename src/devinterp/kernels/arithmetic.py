r"""Arithmetic of several kernels, above all with :math:`\nabla U = n\beta\, g + \gamma (w - w_0) + \lambda w`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from devinterp.types import StepInputs, Target

if TYPE_CHECKING:
    from torch import Tensor


def descend_(moved: Tensor, target: Target, value: Tensor, gradient: Tensor, initial: Tensor, step: float) -> None:
    r"""Subtract `step` times :math:`\nabla U` from a tensor, in place and without a copy.

    Parameters
    ----------
    moved : Tensor
        What changes, ``(chain, *shape)``.
    target : Target
        The posterior.
    value, gradient, initial : Tensor
        Weights of one parameter, the gradient of the loss there, and the initial weights.
    step : float
        Its size.
    """
    pull = target.localization + target.weight_decay
    moved.add_(gradient, alpha=-step * target.n_beta)
    if pull:
        moved.add_(value, alpha=-step * pull)
    if target.localization:
        moved.add_(initial, alpha=step * target.localization)


def slope_(target: Target, value: Tensor, gradient: Tensor, initial: Tensor) -> Tensor:
    r"""Return :math:`\nabla U` for one parameter, in the memory of `gradient`; parameters as in `descend_`."""
    slope = gradient.mul_(target.n_beta)
    if target.localization or target.weight_decay:
        slope.add_(value, alpha=target.localization + target.weight_decay)
    if target.localization:
        slope.sub_(initial, alpha=target.localization)
    return slope


def drift_terms(
    target: Target, step: StepInputs, size: float, scales: Sequence[Tensor | float] | None = None
) -> dict[str, list[Tensor]]:
    r"""Return the parts of :math:`-\mathrm{size}\, G\, \nabla U`, for the ``terms`` of a kernel.

    Parameters
    ----------
    target : Target
        The posterior.
    step : StepInputs
        The step.
    size : float
        What multiplies the gradient; :math:`\epsilon / 2` for SGLD.
    scales : sequence of Tensor, optional
        A diagonal preconditioner :math:`G` for each parameter; 1 by default.

    Returns
    -------
    dict of str to list of Tensor
        ``gradient``, ``localization`` and ``weight_decay``.
    """
    scales = [1.0] * len(step.values) if scales is None else scales
    offsets = [w - w0 for w, w0 in zip(step.values, step.initial_weights, strict=True)]
    return {
        "gradient": [-size * target.n_beta * s * g for s, g in zip(scales, step.gradients, strict=True)],
        "localization": [-size * target.localization * s * offset for s, offset in zip(scales, offsets, strict=True)],
        "weight_decay": [-size * target.weight_decay * s * w for s, w in zip(scales, step.values, strict=True)],
    }


def per_chain(numbers: Tensor, value: Tensor) -> Tensor:
    """Return numbers ``(chain,)`` in a shape that multiplies a tensor ``(chain, *shape)``."""
    return numbers.view(-1, *[1] * (value.ndim - 1))
