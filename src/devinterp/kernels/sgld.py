r"""Stochastic gradient Langevin dynamics (SGLD).

.. math:: w \leftarrow w - \tfrac{\epsilon}{2} \nabla U(w) + \sqrt{\epsilon}\, \xi, \qquad \xi \sim N(0, \sigma^2)

with :math:`U` the local tempered posterior of `devinterp.Target`, its gradient estimated on a minibatch (arXiv 2308.12108).

**Law on a quadratic** with second derivative :math:`a` of :math:`U` and :math:`x = \epsilon a`: each coordinate is an
autoregression with coefficient :math:`1 - x/2` and variance

.. math:: \frac{1}{a}\, \frac{1 + \rho}{1 - x / 4}, \qquad \rho = \tfrac{\epsilon}{4} s^2,

with :math:`s^2` the variance that minibatches give :math:`\nabla U`; stable iff :math:`x < 4`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devinterp.hookspecs import hookimpl
from devinterp.kernels.arithmetic import drift_terms
from devinterp.types import Kernel, StepInputs, Target, Transition

if TYPE_CHECKING:
    from torch import Tensor


def build(target: Target, *, lr: float) -> Transition:
    r"""Build SGLD [1]_, the plain Euler discretisation of Langevin diffusion.

    Parameters
    ----------
    target : Target
        The posterior to sample.
    lr : float
        Step size :math:`\epsilon > 0`. The drift is :math:`(\epsilon/2)\nabla U`.

    Returns
    -------
    Transition
        Without state.

    References
    ----------
    .. [1] M. Welling, Y. W. Teh. Bayesian learning via stochastic gradient Langevin dynamics. ICML 2011.
    """
    return SGLD(target, lr)


@dataclass(frozen=True)
class SGLD:
    """SGLD with its settings; see `build`."""

    target: Target
    lr: float

    def init(self, values: list[Tensor]) -> dict[str, list[Tensor]]:
        """Return no state: SGLD is memoryless."""
        return {}

    def update(self, step: StepInputs) -> None:
        """Move the weights one step, in place."""
        half, target = self.lr / 2, self.target
        shrink = 1 - half * (target.localization + target.weight_decay)
        parts = zip(step.values, step.gradients, step.initial_weights, step.noise, strict=True)
        for value, gradient, initial, xi in parts:
            if shrink != 1:
                value.mul_(shrink)
            if target.localization:
                value.add_(initial, alpha=half * target.localization)
            value.add_(gradient, alpha=-half * target.n_beta)
            value.add_(xi, alpha=math.sqrt(self.lr))

    def terms(self, step: StepInputs) -> dict[str, list[Tensor]]:
        """Return the drift of loss, localization and weight decay, and the noise, of the step that `update` would take."""
        drift = drift_terms(self.target, step, self.lr / 2)
        return {**drift, "noise": [math.sqrt(self.lr) * xi for xi in step.noise]}


@hookimpl
def devinterp_kernels() -> list[Kernel]:
    """Register SGLD, also under the name v2 gave it."""
    return [Kernel(name="sgld", build=build, aliases=("sgmcmc_sgld",))]
