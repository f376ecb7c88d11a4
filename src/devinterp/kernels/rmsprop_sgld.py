r"""SGLD preconditioned as RMSprop does (pSGLD), without or with the :math:`\Gamma` term.

.. math::

    V &\leftarrow \alpha V + (1 - \alpha) g^2, \qquad G = 1 / (\sqrt{V} + \mathrm{eps}) \\
    w &\leftarrow w - \tfrac{\epsilon}{2} \left( G \nabla U(w) - \Gamma \right) + \sqrt{\epsilon G}\, \xi,
    \qquad \xi \sim N(0, \sigma^2)

with :math:`g` the minibatch gradient of the loss (not multiplied by ``n_beta``), :math:`V = 0` at the start, and
:math:`\Gamma = 0` unless asked for (`devinterp.kernels.correction`). That is DevInterp 2's form. In that of arXiv:2507.21449
:math:`V = 1` at the start, and :math:`V / (1 - \alpha^t)` at step :math:`t = 1, 2, \ldots` takes the place of :math:`V` in
:math:`G`: first steps are small, :math:`G \le \sqrt{(1 - \alpha) / \alpha}`, and the difference vanishes with :math:`\alpha^t`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devinterp.errors import InvalidInputError
from devinterp.hookspecs import hookimpl
from devinterp.kernels import correction
from devinterp.kernels.arithmetic import drift_terms, per_chain, slope_
from devinterp.types import Kernel, StepInputs, Target, Transition

if TYPE_CHECKING:
    from torch import Tensor


def build(
    target: Target,
    *,
    lr: float,
    alpha: float = 0.99,
    eps: float = 0.1,
    gamma: bool = False,
    bias_correction: bool = False,
) -> Transition:
    r"""Build RMSprop-preconditioned SGLD [1]_.

    Parameters
    ----------
    target : Target
        The posterior to sample.
    lr : float
        Step size :math:`\epsilon > 0`.
    alpha : float, default: 0.99
        Decay of the running mean of squared gradients, in [0, 1).
    eps : float, default: 0.1
        Added to the root of that mean; positive. It bounds the preconditioner by ``1 / eps``.
    gamma : bool, default: False
        Whether to add the drift :math:`\Gamma` that makes up for the preconditioner changing with the weights. Without it,
        and with few weights or full batches, learning coefficients come out too large: by 9 to 24 % at the default `alpha`
        on quadratics in one dimension (docs/kernels.md). Costs four more tensors of state.
    bias_correction : bool, default: False
        Whether the mean starts at 1 and is divided by :math:`1 - \alpha^t`, as in [2]_; otherwise it starts at 0 and is taken
        as it is, as in DevInterp 2.

    Returns
    -------
    Transition
        With state ``square_average``, with `gamma` that of `devinterp.kernels.correction`, and with `bias_correction`
        ``num_steps``, the steps of each chain.

    Raises
    ------
    InvalidInputError
        If `alpha` or `eps` is out of range, or `gamma` or `bias_correction` is neither True nor False.

    References
    ----------
    .. [1] C. Li, C. Chen, D. Carlson, L. Carin. Preconditioned stochastic gradient Langevin dynamics for deep neural
       networks. AAAI 2016. arXiv:1512.07666.
    .. [2] R. Hitchcock, J. Hoogland. From global to local: a scalable benchmark for local posterior sampling. 2025.
       arXiv:2507.21449.
    """
    if not 0 <= alpha < 1:
        raise InvalidInputError(f"`alpha` (={alpha}) must be at least 0 and below 1.")
    if not (eps > 0 and math.isfinite(eps)):
        raise InvalidInputError(f"`eps` (={eps}) must be positive and finite.")
    if not isinstance(gamma, bool):
        raise InvalidInputError(f"`gamma` (={gamma!r}) must be True or False; for localization use `localization`.")
    if not isinstance(bias_correction, bool):
        raise InvalidInputError(f"`bias_correction` (={bias_correction!r}) must be True or False.")
    return RMSpropSGLD(target, lr, alpha, eps, gamma, bias_correction)


@dataclass(frozen=True)
class RMSpropSGLD:
    """RMSprop-SGLD with its settings; see `build`."""

    target: Target
    lr: float
    alpha: float
    eps: float
    gamma: bool
    bias_correction: bool

    def init(self, values: list[Tensor]) -> dict[str, list[Tensor]]:
        """Return the running mean of squared gradients where it starts, and with `gamma` the secants, empty."""
        state = {"square_average": [value.new_full(value.shape, float(self.bias_correction)) for value in values]}
        if self.bias_correction:
            state["num_steps"] = [values[0].new_zeros(values[0].shape[:1]).long()]
        return {**state, **correction.init(values)} if self.gamma else state

    def update(self, step: StepInputs) -> None:
        """Move the weights and the running means one step, in place."""
        half, averages = self.lr / 2, step.state["square_average"]
        parts = zip(step.values, step.gradients, step.initial_weights, averages, step.noise, strict=True)
        for n, (value, gradient, initial, average, xi) in enumerate(parts):
            average.mul_(self.alpha).addcmul_(gradient, gradient, value=1 - self.alpha)
            mean_square = self._mean_square(average, step.state)
            scale = mean_square.sqrt().add_(self.eps).reciprocal_()
            extra = None
            if self.gamma:
                correction.remember(step.state, n, value, gradient)
                extra = self._gamma_term(correction.curvature(step.state, n), gradient, mean_square, scale)
            value.addcmul_(slope_(self.target, value, gradient, initial), scale, value=-half)
            if extra is not None:
                value.add_(extra, alpha=half)
            value.addcmul_(scale.sqrt_(), xi, value=math.sqrt(self.lr))
        for count in step.state.get("num_steps", ()):
            count.add_(1)

    def terms(self, step: StepInputs) -> dict[str, list[Tensor]]:
        """Return the preconditioned drifts and noise of the step that `update` would take."""
        squares = zip(step.state["square_average"], step.gradients, strict=True)
        averages = [self._mean_square(self.alpha * v + (1 - self.alpha) * g * g, step.state) for v, g in squares]
        scales = [1 / (v.sqrt() + self.eps) for v in averages]
        terms = {
            **drift_terms(self.target, step, self.lr / 2, scales),
            "noise": [(self.lr * s).sqrt() * xi for s, xi in zip(scales, step.noise, strict=True)],
        }
        if self.gamma:
            state = {name: [tensor.clone() for tensor in tensors] for name, tensors in step.state.items()}
            for n, (value, gradient) in enumerate(zip(step.values, step.gradients, strict=True)):
                correction.remember(state, n, value, gradient)
            terms["gamma"] = [
                self.lr / 2 * self._gamma_term(correction.curvature(state, n), *each)
                for n, each in enumerate(zip(step.gradients, averages, scales, strict=True))
            ]
        return terms

    def _mean_square(self, average: Tensor, state: dict[str, list[Tensor]]) -> Tensor:
        """Return the running mean that the preconditioner of the next step is made of."""
        if not self.bias_correction:
            return average
        weight = 1 - self.alpha ** (state["num_steps"][0] + 1).double()
        return average / per_chain(weight, average).to(average.dtype)

    def _gamma_term(self, curvature: Tensor, gradient: Tensor, average: Tensor, scale: Tensor) -> Tensor:
        """Return the Γ term."""
        full = self.target.n_beta * curvature + self.target.localization + self.target.weight_decay
        memory = (1 - self.lr / 2 * scale * full).clamp_(0, 1)
        return correction.gamma(gradient, average, scale, curvature, memory, alpha=self.alpha)


@hookimpl
def devinterp_kernels() -> list[Kernel]:
    """Register RMSprop-SGLD."""
    return [Kernel(name="rmsprop_sgld", build=build)]
