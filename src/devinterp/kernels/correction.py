r"""The :math:`\Gamma` term of RMSprop-SGLD: the drift that makes up for a preconditioner which changes with the weights.

For a diagonal preconditioner and small steps the weights have the density :math:`e^{-U}` iff

.. math:: \Gamma_i(w) = \frac{\partial}{\partial w_i} \mathbb{E}[G_i \mid w]

(then the current of probability vanishes). With :math:`G = 1 / (\sqrt{V} + \mathrm{eps})` and :math:`V` a running mean of
squared gradients,

.. math::

    \frac{\partial G_i}{\partial V_i} = - \frac{G_i^2}{2 \sqrt{V_i}}, \qquad
    \frac{\partial}{\partial w_i} \mathbb{E}[V_i \mid w] \approx 2 g_i H_{ii}\, (1 - \alpha) \sum_k \alpha^k \rho_i^{2k}
    = 2 g_i H_{ii} \frac{1 - \alpha}{1 - \alpha \rho_i^2}

because the gradient k steps ago is correlated with the weights now: exactly so for the autoregression that SGLD is on a
quadratic, where :math:`\rho_i = 1 - (\epsilon / 2) G_i (n\beta H_{ii} + \gamma + \lambda)`. Together

.. math:: \Gamma_i \approx - G_i^2 \frac{g_i H_{ii}}{\sqrt{V_i}} \frac{1 - \alpha}{1 - \alpha \rho_i^2}.

The derivative in the paper (arXiv:1512.07666) takes the past gradients for fixed, which is :math:`\rho = 0`: it removes a
share :math:`1 - \alpha` of the bias when steps are small. For :math:`\alpha = 0` the formula is exact.

The diagonal of the Hessian :math:`H` of the loss is taken from the chain itself: consecutive weights and minibatch gradients
differ by :math:`\Delta g = H \Delta w` and noise, and since :math:`\Delta w` is mostly independent noise,
:math:`\langle \Delta g_i \Delta w_i \rangle / \langle \Delta w_i^2 \rangle` estimates :math:`H_{ii}` as Hutchinson's
estimator does; exactly where the Hessian is diagonal and the batch the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

State = dict[str, list["Tensor"]]

#: Decay of the running means over secants.
_DECAY = 0.99


def init(values: list[Tensor]) -> State:
    """Return the state: the last weights and gradients, and running sums of products of their changes."""
    empty = {
        name: [value.new_zeros(value.shape) for value in values]
        for name in ("last_gradient", "secant_product", "secant_square")
    }
    return {"last_value": [value.detach().clone() for value in values], **empty}


def remember(state: State, n: int, value: Tensor, gradient: Tensor) -> None:
    """Add the change of weights and gradient of one parameter to the running sums, in place."""
    change = value - state["last_value"][n]
    state["secant_product"][n].mul_(_DECAY).addcmul_(gradient - state["last_gradient"][n], change)
    state["secant_square"][n].mul_(_DECAY).addcmul_(change, change)
    state["last_value"][n].copy_(value)
    state["last_gradient"][n].copy_(gradient)


def curvature(state: State, n: int) -> Tensor:
    """Return the estimated diagonal of the Hessian of the loss for one parameter; 0 where no weight has changed yet."""
    square = state["secant_square"][n]
    return (state["secant_product"][n] / square).masked_fill_(square == 0, 0)


def gamma(
    gradient: Tensor, average: Tensor, scale: Tensor, curvature: Tensor, memory: Tensor, *, alpha: float
) -> Tensor:
    r"""Return :math:`\Gamma` for one parameter.

    Parameters
    ----------
    gradient, average, scale, curvature : Tensor
        :math:`g`, :math:`V`, :math:`G` and the diagonal of :math:`H`, ``(chain, *shape)`` each.
    memory : Tensor
        :math:`\rho`, from 0 to 1.
    alpha : float
        Decay of the running mean of squared gradients.

    Returns
    -------
    Tensor
        ``(chain, *shape)``; 0 where every gradient so far has been 0.
    """
    lag = (1 - alpha) / (1 - alpha * memory**2)
    ratio = (gradient / average.sqrt()).masked_fill_(average == 0, 0)
    return -(scale**2) * ratio * curvature * lag
