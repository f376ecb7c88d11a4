r"""The method of Leimkuhler and Matthews with RMSprop's preconditioner, which is held fixed after a number of steps.

.. math::

    w \leftarrow w - \tfrac{\epsilon}{2} G\, \nabla U(w) + \sqrt{\epsilon G}\, \tfrac12 (\xi' + \xi),
    \qquad \xi \sim N(0, \sigma^2)

with :math:`G` of `devinterp.kernels.frozen_rmsprop` and all else of `devinterp.kernels.leimkuhler_matthews`.

**Law on a quadratic** whose :math:`U` has second derivative :math:`a_i` by :math:`w_i`, once :math:`G` is fixed: variance

.. math:: \frac{1}{a_i} \left( 1 + \frac{\rho_i}{1 - x_i / 4} \right), \qquad
    x_i = \epsilon G_i a_i < 4, \qquad \rho_i = \tfrac{\epsilon}{4} G_i s_i^2,

exactly :math:`1 / a_i` without minibatch noise. Quadratics with any other Hessian are sampled without bias too.
"""

from __future__ import annotations

from devinterp.hookspecs import hookimpl
from devinterp.kernels.frozen_rmsprop import FrozenRMSprop
from devinterp.kernels.leimkuhler_matthews import LeimkuhlerMatthews
from devinterp.types import Kernel, Target, Transition


def build(
    target: Target, *, lr: float, alpha: float = 0.99, eps: float = 0.1, num_adaptation_steps: int = 200
) -> Transition:
    r"""Build the method of Leimkuhler and Matthews [1]_ with a preconditioner.

    Parameters
    ----------
    target : Target
        The posterior to sample.
    lr : float
        Step size :math:`\epsilon > 0`; drift and noise of a step are as large as those of ``rmsprop_sgld``.
    alpha : float, default: 0.99
        Decay of the running mean of squared gradients, in [0, 1).
    eps : float, default: 0.1
        Added to the root of that mean; positive. It bounds the preconditioner by ``1 / eps``.
    num_adaptation_steps : int, default: 200
        Steps of each chain after which its preconditioner is held fixed. Burn in at least as long: until then the chain does
        not sample the target.

    Returns
    -------
    Transition
        With state ``noise``, that of the last step, ``square_average`` and ``num_adapted``.

    Raises
    ------
    InvalidInputError
        If an option is out of range.

    References
    ----------
    .. [1] B. Leimkuhler, C. Matthews. Rational construction of stochastic numerical methods for molecular sampling. Applied
       Mathematics Research eXpress 2013(1), 34-56. doi:10.1093/amrx/abs010.
    """
    return LeimkuhlerMatthews(target, lr, preconditioner=FrozenRMSprop(alpha, eps, num_adaptation_steps))


@hookimpl
def devinterp_kernels() -> list[Kernel]:
    """Register the preconditioned method of Leimkuhler and Matthews."""
    return [Kernel(name="rmsprop_leimkuhler_matthews", build=build)]
