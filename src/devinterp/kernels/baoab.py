r"""BAOAB: underdamped Langevin dynamics, split so that the step size has no bias on quadratics.

With :math:`\delta = \sqrt\epsilon`, friction :math:`f` and :math:`c = 1 - f`,

.. math::

    v &\leftarrow v - \delta \nabla U(w) \\
    w &\leftarrow w + \tfrac{\delta}{2} v, \qquad
    v \leftarrow c v + \sqrt{1 - c^2 - (1 + c)^2 b}\, \xi, \qquad
    w \leftarrow w + \tfrac{\delta}{2} v, \qquad \xi \sim N(0, \sigma^2)

which is the scheme BAOAB of doi:10.1093/amrx/abs010 with the half kicks at the end of one step and the beginning of the next
made in one, so that a step needs one gradient and one draw of noise, as SGLD does. The velocity :math:`v` starts at zero. At
friction 1 it is `devinterp.kernels.leimkuhler_matthews`.

**Law on a quadratic** with second derivative :math:`a` of :math:`U` and :math:`x = \epsilon a`. After the kick, :math:`w` and
:math:`u = \tfrac{\delta}{2} (1 + c) v` are a chain of SGHMC, and the variance of :math:`w` is

.. math::

    \frac{1}{a} \left( 1 - \beta + \frac{\rho}{1 - x / 4} \right), \qquad
    \rho = \frac{1 + c}{1 - c}\, \frac{\epsilon}{4} s^2, \qquad \beta = \frac{1 + c}{1 - c}\, b,

with :math:`s^2` the variance that minibatches give :math:`\nabla U` and :math:`b` the option `gradient_noise`; stable iff
:math:`x < 4`. Without minibatch noise that is exactly :math:`1 / a`, at any friction. Flat directions move
:math:`(1 + c) / (1 - c)` times as far as in SGLD: they forget where they were within
:math:`\frac{2}{\epsilon a} \frac{1 - c}{1 + c}` steps, and minibatch noise is as many times larger. Directions with
:math:`x > 2 (1 - \sqrt c)^2 / (1 + c)` oscillate and forget within :math:`2 / (1 - c)` steps. With :math:`\beta = \rho` the
variance remains :math:`\rho x / (4 - x)` too large, relatively.

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


def build(target: Target, *, lr: float, friction: float = 0.2, gradient_noise: float = 0.0) -> Transition:
    r"""Build BAOAB [1]_.

    On quadratics its stationary variance is that of the target at any stable step, :math:`\epsilon a < 4`, and flat
    directions move :math:`(2 - f) / f` times as far as in SGLD with the same `lr`.

    Parameters
    ----------
    target : Target
        The posterior to sample.
    lr : float
        Step size :math:`\epsilon > 0`, the square of the time step of the paper.
    friction : float, default: 0.2
        :math:`f`, what a step takes away of the velocity; above 0, at most 1.
    gradient_noise : float, default: 0.0
        :math:`b`, an estimate of :math:`\epsilon s^2 / 4`, with :math:`s^2` the variance of minibatch gradients of :math:`U`
        (``n_beta`` squared times that of the gradient of the loss). What it adds to the velocity is subtracted from the added
        noise; from 0 to less than :math:`f / (2 - f)`.

    Returns
    -------
    Transition
        With state ``velocity``.

    Raises
    ------
    InvalidInputError
        If `friction` or `gradient_noise` is out of range.

    References
    ----------
    .. [1] B. Leimkuhler, C. Matthews. Rational construction of stochastic numerical methods for molecular sampling. Applied
       Mathematics Research eXpress 2013(1), 34-56. doi:10.1093/amrx/abs010.
    """
    check_friction(friction)
    if not 0 <= gradient_noise < friction / (2 - friction):
        raise InvalidInputError(
            f"`gradient_noise` (={gradient_noise}) must be at least 0 and below friction / (2 - friction) "
            f"(={friction / (2 - friction):.3g}), all that is added."
        )
    return BAOAB(target, lr, friction, gradient_noise)


def check_friction(friction: float) -> None:
    """Raise unless the friction is above 0 and at most 1."""
    if not 0 < friction <= 1:
        raise InvalidInputError(f"`friction` (={friction}) must be above 0 and at most 1.")


@dataclass(frozen=True)
class BAOAB:
    """BAOAB with its settings; see `build`."""

    target: Target
    lr: float
    friction: float
    gradient_noise: float = 0.0
    preconditioner: FrozenRMSprop | None = None

    def init(self, values: list[Tensor]) -> dict[str, list[Tensor]]:
        """Return the velocity, zero, and the state of the preconditioner."""
        state = {"velocity": [value.new_zeros(value.shape) for value in values]}
        return state if self.preconditioner is None else {**state, **self.preconditioner.init(values)}

    def update(self, step: StepInputs) -> None:
        """Kick the velocity, then move the weights by half of it before and half of it after the noise, in place."""
        roots = [None] * len(step.values) if self.preconditioner is None else self.preconditioner.roots_(step)
        parts = zip(
            step.values, step.gradients, step.initial_weights, step.state["velocity"], roots, step.noise, strict=True
        )
        delta = math.sqrt(self.lr)
        for value, gradient, initial, velocity, root, xi in parts:
            slope = slope_(self.target, value, gradient, initial)
            # In the coordinates in which the preconditioner is one, the gradient is `root` times as large, and the weights
            # move `root` times as far as they do there.
            velocity.sub_(slope if root is None else slope.mul_(root), alpha=delta)
            path = velocity * (2 - self.friction)
            velocity.mul_(1 - self.friction).add_(xi, alpha=self._noise_scale)
            path.add_(xi, alpha=self._noise_scale)
            value.add_(path if root is None else path.mul_(root), alpha=delta / 2)

    def terms(self, step: StepInputs) -> dict[str, list[Tensor]]:
        """Return the way due to the velocity before the step, to each part of the drift, and to the noise."""
        half, twice = math.sqrt(self.lr) / 2, 2 - self.friction
        terms = {
            "velocity": [half * twice * v for v in step.state["velocity"]],
            "noise": [half * self._noise_scale * xi for xi in step.noise],
        }
        if self.preconditioner is None:
            return {**terms, **drift_terms(self.target, step, self.lr / 2 * twice)}
        roots = self.preconditioner.roots(step)
        drift = drift_terms(self.target, step, self.lr / 2 * twice, [root * root for root in roots])
        return {**drift, **{name: [r * t for r, t in zip(roots, ts, strict=True)] for name, ts in terms.items()}}

    @property
    def _noise_scale(self) -> float:
        """Standard deviation of what is added to the velocity."""
        return math.sqrt((2 - self.friction) * (self.friction - (2 - self.friction) * self.gradient_noise))


@hookimpl
def devinterp_kernels() -> list[Kernel]:
    """Register BAOAB."""
    return [Kernel(name="baoab", build=build)]
