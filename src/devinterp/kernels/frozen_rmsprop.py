r"""RMSprop's diagonal preconditioner, adapted for a number of steps and held fixed from then on.

.. math::

    V &\leftarrow V + r_t (g^2 - V), \qquad
    r_t = \frac{1 - \alpha}{1 - \alpha^t} \ \text{for}\ t = 1, \ldots, N, \quad 0 \ \text{afterwards} \\
    G &= 1 / (\sqrt{V} + \mathrm{eps})

with :math:`g` the minibatch gradient of the loss; :math:`V` is the running mean of its square without the bias of its start.

**Why it is held fixed.** A constant :math:`G` is a change of variables, :math:`w = \sqrt{G}\, y`: a kernel that moves :math:`y`
on :math:`U` follows its own law, with :math:`\epsilon G_i` in the place of :math:`\epsilon`, and where it samples quadratics
without bias it still does. A :math:`G` that goes on changing with the gradients makes chains linger where gradients are large,
unless a drift :math:`\Gamma` makes up for that, which is known exactly only for a :math:`G` without memory
(`devinterp.kernels.correction`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devinterp.errors import InvalidInputError
from devinterp.kernels.arithmetic import per_chain
from devinterp.types import StepInputs

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FrozenRMSprop:
    """The preconditioner with its settings; its state is part of that of the kernel.

    Parameters
    ----------
    alpha : float
        Decay of the running mean of squared gradients, in [0, 1).
    eps : float
        Added to the root of that mean; positive.
    num_adaptation_steps : int
        :math:`N`, after how many steps it is held fixed; at least 1.

    Raises
    ------
    InvalidInputError
        If one of them is out of range.
    """

    alpha: float
    eps: float
    num_adaptation_steps: int

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 1:
            raise InvalidInputError(f"`alpha` (={self.alpha}) must be at least 0 and below 1.")
        if not (self.eps > 0 and math.isfinite(self.eps)):
            raise InvalidInputError(f"`eps` (={self.eps}) must be positive and finite.")
        if self.num_adaptation_steps < 1:
            raise InvalidInputError(f"`num_adaptation_steps` (={self.num_adaptation_steps}) must be at least 1.")

    def init(self, values: list[Tensor]) -> dict[str, list[Tensor]]:
        """Return the running mean of squared gradients, zero, and for how many steps it has been adapted, by chain."""
        return {
            "square_average": [value.new_zeros(value.shape) for value in values],
            "num_adapted": [values[0].new_zeros(values[0].shape[:1]).long()],
        }

    def roots_(self, step: StepInputs) -> Iterator[Tensor]:
        r"""Adapt the state of a step, in place, and yield :math:`\sqrt{G}` for each parameter."""
        rate = self._rate(step)
        (num_adapted,) = step.state["num_adapted"]
        num_adapted.add_(1).clamp_(max=self.num_adaptation_steps)
        for average, gradient in zip(step.state["square_average"], step.gradients, strict=True):
            average.lerp_(gradient.square(), per_chain(rate, average).to(average.dtype))
            yield average.sqrt().add_(self.eps).rsqrt_()

    def roots(self, step: StepInputs) -> list[Tensor]:
        r"""Return :math:`\sqrt{G}` as `roots_` would yield it, and change nothing."""
        rate = self._rate(step)
        pairs = zip(step.state["square_average"], step.gradients, strict=True)
        averages = [average.lerp(g.square(), per_chain(rate, average).to(average.dtype)) for average, g in pairs]
        return [average.sqrt_().add_(self.eps).rsqrt_() for average in averages]

    def _rate(self, step: StepInputs) -> Tensor:
        """Return how much of the new square goes into the mean, ``(chain,)``."""
        (num_adapted,) = step.state["num_adapted"]
        rate = (1 - self.alpha) / (1 - self.alpha ** (num_adapted + 1).double())
        return rate.masked_fill_(num_adapted >= self.num_adaptation_steps, 0)
