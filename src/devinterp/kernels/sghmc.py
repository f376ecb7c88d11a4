r"""Stochastic gradient Hamiltonian Monte Carlo (SGHMC): Langevin dynamics with momentum.

.. math::

    v &\leftarrow (1 - \alpha) v - \tfrac{\epsilon}{2} \nabla U(w) + \sqrt{(\alpha - \hat\beta) \epsilon}\, \xi,
    \qquad \xi \sim N(0, \sigma^2) \\
    w &\leftarrow w + v

which is equation 15 of arXiv:1402.4102 with its learning rate :math:`\eta = \epsilon / 2`, so that friction
:math:`\alpha = 1` is SGLD with the same :math:`\epsilon`. The velocity :math:`v` starts at zero.

**Law on a quadratic** with second derivative :math:`a` of :math:`U` and :math:`x = \epsilon a`: normal, with variance

.. math::

    \frac{1}{a}\, \frac{1 - \hat\beta / \alpha + \rho}{1 - x / (4 (2 - \alpha))}, \qquad
    \rho = \frac{\epsilon s^2}{4 \alpha},

with :math:`s^2` the variance that minibatches give :math:`\nabla U`; stable iff :math:`x < 4 (2 - \alpha)`. With
:math:`\hat\beta = \epsilon s^2 / 4` minibatch noise is made up for exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devinterp.errors import InvalidInputError
from devinterp.hookspecs import hookimpl
from devinterp.kernels.arithmetic import descend_, drift_terms
from devinterp.types import Kernel, StepInputs, Target, Transition

if TYPE_CHECKING:
    from torch import Tensor


def build(target: Target, *, lr: float, friction: float = 0.1, gradient_noise: float = 0.0) -> Transition:
    r"""Build SGHMC [1]_.

    The bias of its step size is that of SGLD divided by :math:`2 - \alpha`, and it forgets its start about
    :math:`1 / \alpha` times as fast, as long as :math:`\alpha \ge \sqrt{2 \epsilon a}`.

    Parameters
    ----------
    target : Target
        The posterior to sample.
    lr : float
        Step size :math:`\epsilon > 0`, twice the learning rate of the paper.
    friction : float, default: 0.1
        :math:`\alpha`, what a step takes away of the velocity; above 0, at most 1. The momentum of SGD is one minus it.
    gradient_noise : float, default: 0.0
        :math:`\hat\beta`, an estimate of :math:`\epsilon s^2 / 4`, what minibatch gradients add to the diffusion; it is
        subtracted from the variance of the added noise. From 0 to less than `friction`.

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
    .. [1] T. Chen, E. B. Fox, C. Guestrin. Stochastic gradient Hamiltonian Monte Carlo. ICML 2014. arXiv:1402.4102.
    """
    if not 0 < friction <= 1:
        raise InvalidInputError(f"`friction` (={friction}) must be above 0 and at most 1.")
    if not 0 <= gradient_noise < friction:
        raise InvalidInputError(
            f"`gradient_noise` (={gradient_noise}) must be at least 0 and below `friction` (={friction})."
        )
    return SGHMC(target, lr, friction, gradient_noise)


@dataclass(frozen=True)
class SGHMC:
    """SGHMC with its settings; see `build`."""

    target: Target
    lr: float
    friction: float
    gradient_noise: float

    def init(self, values: list[Tensor]) -> dict[str, list[Tensor]]:
        """Return the velocity, zero."""
        return {"velocity": [value.new_zeros(value.shape) for value in values]}

    def update(self, step: StepInputs) -> None:
        """Move the velocity and then the weights one step, in place."""
        parts = zip(step.values, step.gradients, step.initial_weights, step.state["velocity"], step.noise, strict=True)
        for value, gradient, initial, velocity, xi in parts:
            velocity.mul_(1 - self.friction)
            descend_(velocity, self.target, value, gradient, initial, self.lr / 2)
            velocity.add_(xi, alpha=self._noise_scale)
            value.add_(velocity)

    def terms(self, step: StepInputs) -> dict[str, list[Tensor]]:
        """Return the velocity after friction, and the drifts and the noise that are added to it."""
        return {
            "velocity": [(1 - self.friction) * v for v in step.state["velocity"]],
            **drift_terms(self.target, step, self.lr / 2),
            "noise": [self._noise_scale * xi for xi in step.noise],
        }

    @property
    def _noise_scale(self) -> float:
        return math.sqrt((self.friction - self.gradient_noise) * self.lr)


@hookimpl
def devinterp_kernels() -> list[Kernel]:
    """Register SGHMC."""
    return [Kernel(name="sghmc", build=build)]
