r"""The stochastic gradient Nosé-Hoover thermostat (SGNHT): SGHMC that finds its friction itself.

.. math::

    v &\leftarrow (1 - \alpha) v - \tfrac{\epsilon}{2} \nabla U(w) + \sqrt{a \epsilon}\, \xi,
    \qquad \xi \sim N(0, \sigma^2) \\
    w &\leftarrow w + v, \qquad
    \alpha \leftarrow \alpha + \tfrac{1}{n} |v|^2 - \tfrac{\epsilon}{2 - \alpha}

which is algorithm 2 of the paper with step :math:`h`, :math:`v = h p`, :math:`\epsilon / 2 = h^2`, :math:`a = h A` and
:math:`\alpha = h \xi`, except for the value at which :math:`|v|^2 / n` is held; :math:`n` is the number of sampled weights.
One friction for all weights of a chain rises while they are hotter than they should be, whatever heats them: noise of
minibatch gradients too. :math:`v` starts at zero, :math:`\alpha` at :math:`a`.

**Why** :math:`\epsilon / (2 - \alpha)`. Let :math:`\alpha` be constant. In a stationary chain :math:`E|w + v|^2 = E|w|^2`, so
:math:`E[w \cdot v] = -\tfrac12 E|v|^2` before and :math:`E[(w + v) \cdot v] = \tfrac12 E|v|^2` after a step. The first line,
multiplied by :math:`w`, then says

.. math:: (2 - \alpha)\, E|v|^2 = \epsilon\, E[w \cdot \nabla U(w)],

for any loss and any noise of its gradients. The right side is :math:`\epsilon n` for the density :math:`e^{-U}`. The paper
holds :math:`|v|^2 / n` at :math:`\epsilon / 2`, the limit of small friction: the temperature is then :math:`1 - \alpha / 2`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devinterp.errors import InvalidInputError
from devinterp.hookspecs import hookimpl
from devinterp.kernels.arithmetic import descend_, drift_terms, per_chain
from devinterp.types import Kernel, StepInputs, Target, Transition

if TYPE_CHECKING:
    from torch import Tensor


def build(target: Target, *, lr: float, diffusion: float = 0.1) -> Transition:
    r"""Build SGNHT [1]_.

    With many weights :math:`\alpha` hardly fluctuates, and the average of :math:`w \cdot \nabla U` over the chain is that of
    the target at any step size, with minibatch noise too. On a quadratic with equal curvatures the variance is exactly their
    inverse; with different ones it is the variance of SGHMC, scaled so that it is right on average. With few weights the law
    is that of the target for small steps. The thermostat takes about :math:`2 a / \epsilon` steps to settle where :math:`a` is
    not yet the friction that is needed: burn in at least as long.

    Parameters
    ----------
    target : Target
        The posterior to sample.
    lr : float
        Step size :math:`\epsilon > 0`, twice the square of the paper's :math:`h`; as in SGHMC.
    diffusion : float, default: 0.1
        :math:`a`, in which friction starts and around which it settles when gradients have no noise; positive, at most 1.

    Returns
    -------
    Transition
        With state ``velocity``, and ``friction``: one tensor ``(chain,)`` for all parameters.

    Raises
    ------
    InvalidInputError
        If `diffusion` is out of range.

    References
    ----------
    .. [1] N. Ding, Y. Fang, R. Babbush, C. Chen, R. D. Skeel, H. Neven. Bayesian sampling using stochastic gradient
       thermostats. NeurIPS 2014.
    """
    if not 0 < diffusion <= 1:
        raise InvalidInputError(f"`diffusion` (={diffusion}) must be above 0 and at most 1.")
    return SGNHT(target, lr, diffusion)


@dataclass(frozen=True)
class SGNHT:
    """SGNHT with its settings; see `build`."""

    target: Target
    lr: float
    diffusion: float

    def init(self, values: list[Tensor]) -> dict[str, list[Tensor]]:
        """Return the velocity, zero, and the friction of each chain."""
        return {
            "velocity": [value.new_zeros(value.shape) for value in values],
            "friction": [values[0].new_full(values[0].shape[:1], self.diffusion)],
        }

    def update(self, step: StepInputs) -> None:
        """Move the velocity, then the weights, then the friction one step, in place."""
        (friction,) = step.state["friction"]
        wanted = self.lr / (2 - friction)
        squares, number = friction.new_zeros(friction.shape), 0
        parts = zip(step.values, step.gradients, step.initial_weights, step.state["velocity"], step.noise, strict=True)
        for value, gradient, initial, velocity, xi in parts:
            velocity.mul_(per_chain(1 - friction, value))
            descend_(velocity, self.target, value, gradient, initial, self.lr / 2)
            velocity.add_(xi, alpha=math.sqrt(self.diffusion * self.lr))
            value.add_(velocity)
            squares += velocity.square().reshape(len(friction), -1).sum(1)
            number += velocity[0].numel()
        friction.add_(squares / number - wanted)

    def terms(self, step: StepInputs) -> dict[str, list[Tensor]]:
        """Return the velocity after friction, and the drifts and the noise that are added to it."""
        remaining = 1 - step.state["friction"][0]
        return {
            "velocity": [per_chain(remaining, v) * v for v in step.state["velocity"]],
            **drift_terms(self.target, step, self.lr / 2),
            "noise": [math.sqrt(self.diffusion * self.lr) * xi for xi in step.noise],
        }


@hookimpl
def devinterp_kernels() -> list[Kernel]:
    """Register SGNHT."""
    return [Kernel(name="sgnht", build=build)]
