r"""BAOAB with RMSprop's preconditioner, which is held fixed after a number of steps.

.. math::

    v &\leftarrow v - \delta\, G^{1/2} \nabla U(w) \\
    w &\leftarrow w + \tfrac{\delta}{2} G^{1/2} v, \qquad
    v \leftarrow c v + \sqrt{1 - c^2}\, \xi, \qquad
    w \leftarrow w + \tfrac{\delta}{2} G^{1/2} v, \qquad \xi \sim N(0, \sigma^2)

with :math:`G` of `devinterp.kernels.frozen_rmsprop` and all else of `devinterp.kernels.baoab`: every weight has the mass
:math:`1 / G`.

**Law on a quadratic** whose :math:`U` has second derivative :math:`a_i` by :math:`w_i`, once :math:`G` is fixed: variance

.. math:: \frac{1}{a_i} \left( 1 + \frac{\rho_i}{1 - x_i / 4} \right), \qquad
    x_i = \epsilon G_i a_i < 4, \qquad \rho_i = \frac{1 + c}{1 - c}\, \tfrac{\epsilon}{4} G_i s_i^2,

exactly :math:`1 / a_i` without minibatch noise. Quadratics with any other Hessian are sampled without bias too.
"""

from __future__ import annotations

from devinterp.hookspecs import hookimpl
from devinterp.kernels.baoab import BAOAB, check_friction
from devinterp.kernels.frozen_rmsprop import FrozenRMSprop
from devinterp.types import Kernel, Target, Transition


def build(
    target: Target,
    *,
    lr: float,
    friction: float = 0.2,
    alpha: float = 0.99,
    eps: float = 0.1,
    num_adaptation_steps: int = 200,
) -> Transition:
    r"""Build BAOAB [1]_ with a preconditioner.

    Parameters
    ----------
    target : Target
        The posterior to sample.
    lr : float
        Step size :math:`\epsilon > 0`, the square of the time step of the paper; compare ``rmsprop_sgld``.
    friction : float, default: 0.2
        :math:`1 - c`, what a step takes away of the velocity; above 0, at most 1.
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
        With state ``velocity``, ``square_average`` and ``num_adapted``.

    Raises
    ------
    InvalidInputError
        If an option is out of range.

    References
    ----------
    .. [1] B. Leimkuhler, C. Matthews. Rational construction of stochastic numerical methods for molecular sampling. Applied
       Mathematics Research eXpress 2013(1), 34-56. doi:10.1093/amrx/abs010.
    """
    check_friction(friction)
    return BAOAB(target, lr, friction, preconditioner=FrozenRMSprop(alpha, eps, num_adaptation_steps))


@hookimpl
def devinterp_kernels() -> list[Kernel]:
    """Register the preconditioned BAOAB."""
    return [Kernel(name="rmsprop_baoab", build=build)]
