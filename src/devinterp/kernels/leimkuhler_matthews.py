r"""The method of Leimkuhler and Matthews: SGLD whose noise is averaged over two steps.

.. math::

    w \leftarrow w - \tfrac{\epsilon}{2} \nabla U(w) + \sqrt{\epsilon}\, \tfrac12 (\xi' + \xi),
    \qquad \xi \sim N(0, \sigma^2)

with :math:`\xi'` the noise of the step before (0 before the first). One gradient and one draw of noise a step, as SGLD, and
no bias of the step size on quadratics. It is `devinterp.kernels.baoab` at friction 1 (doi:10.1093/amrx/abs010, where it is
the limit of large friction).

**Law on a quadratic** with second derivative :math:`a` of :math:`U` and :math:`x = \epsilon a`: each coordinate is an
autoregression with coefficient :math:`1 - x/2` and moving-average noise, and its variance is

.. math:: \frac{1}{a} \left( 1 - b + \frac{\rho}{1 - x / 4} \right), \qquad \rho = \tfrac{\epsilon}{4} s^2,

with :math:`s^2` the variance that minibatches give :math:`\nabla U` and :math:`b` the option `gradient_noise`; stable iff
:math:`x < 4`. Without minibatch noise that is exactly :math:`1 / a`. The white noise of minibatches cannot be taken off the
averaged noise exactly: with :math:`b = \rho` the variance remains :math:`\rho x / (4 - x)` too large, relatively.

A preconditioner :math:`G` that is held fixed puts :math:`\epsilon G_i` in the place of :math:`\epsilon` in coordinate i.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devinterp.errors import InvalidInputError
from devinterp.hookspecs import hookimpl
from devinterp.kernels.arithmetic import drift_terms, slope_
from devinterp.kernels.frozen_rmsprop import FrozenRMSprop
from devinterp.types import Kernel, StepInputs, Target, Transition

if TYPE_CHECKING:
    from torch import Tensor


def build(target: Target, *, lr: float, gradient_noise: float = 0.0) -> Transition:
    r"""Build the method of Leimkuhler and Matthews [1]_.

    On quadratics its stationary variance is that of the target at any stable step, :math:`\epsilon a < 4`, where SGLD's is
    larger by a factor :math:`1 / (1 - \epsilon a / 4)`.

    Parameters
    ----------
    target : Target
        The posterior to sample.
    lr : float
        Step size :math:`\epsilon > 0`; drift and noise of a step are as large as those of SGLD.
    gradient_noise : float, default: 0.0
        :math:`b`, an estimate of :math:`\rho = \epsilon s^2 / 4`, with :math:`s^2` the variance of minibatch gradients of
        :math:`U` (``n_beta`` squared times that of the gradient of the loss). It is subtracted from the variance of the added
        noise; from 0 to less than 1.

    Returns
    -------
    Transition
        With state ``noise``, that of the last step.

    Raises
    ------
    InvalidInputError
        If `gradient_noise` is out of range.

    References
    ----------
    .. [1] B. Leimkuhler, C. Matthews. Rational construction of stochastic numerical methods for molecular sampling. Applied
       Mathematics Research eXpress 2013(1), 34-56. doi:10.1093/amrx/abs010.
    """
    if not 0 <= gradient_noise < 1:
        raise InvalidInputError(f"`gradient_noise` (={gradient_noise}) must be at least 0 and below 1.")
    return LeimkuhlerMatthews(target, lr, gradient_noise)


@dataclass(frozen=True)
class LeimkuhlerMatthews:
    """The method of Leimkuhler and Matthews with its settings; see `build`."""

    target: Target
    lr: float
    gradient_noise: float = 0.0
    preconditioner: FrozenRMSprop | None = None

    def init(self, values: list[Tensor]) -> dict[str, list[Tensor]]:
        """Return the last noise, zero, and the state of the preconditioner."""
        state = {"noise": [value.new_zeros(value.shape) for value in values]}
        return state if self.preconditioner is None else {**state, **self.preconditioner.init(values)}

    def update(self, step: StepInputs) -> None:
        """Move the weights one step and remember the noise, in place."""
        roots = [None] * len(step.values) if self.preconditioner is None else self.preconditioner.roots_(step)
        parts = zip(
            step.values, step.gradients, step.initial_weights, step.state["noise"], roots, step.noise, strict=True
        )
        for value, gradient, initial, last, root, xi in parts:
            move = slope_(self.target, value, gradient, initial).mul_(-self.lr / 2)
            if root is not None:
                move.mul_(root)
            move.add_(last, alpha=self._noise_scale).add_(xi, alpha=self._noise_scale)
            value.add_(move) if root is None else value.addcmul_(move, root)
            last.copy_(xi)

    def terms(self, step: StepInputs) -> dict[str, list[Tensor]]:
        """Return the drift of loss, localization and weight decay, and the averaged noise."""
        averaged = [self._noise_scale * (last + xi) for last, xi in zip(step.state["noise"], step.noise, strict=True)]
        if self.preconditioner is None:
            return {**drift_terms(self.target, step, self.lr / 2), "noise": averaged}
        roots = self.preconditioner.roots(step)
        drift = drift_terms(self.target, step, self.lr / 2, [root * root for root in roots])
        return {**drift, "noise": [root * noise for root, noise in zip(roots, averaged, strict=True)]}

    @property
    def _noise_scale(self) -> float:
        """What multiplies each of the two noises."""
        return math.sqrt((1 - self.gradient_noise) * self.lr) / 2


@hookimpl
def devinterp_kernels() -> list[Kernel]:
    """Register the method of Leimkuhler and Matthews."""
    return [Kernel(name="leimkuhler_matthews", build=build)]
