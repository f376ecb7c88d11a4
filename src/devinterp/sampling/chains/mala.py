r"""Whether a Metropolis test would accept the steps that are taken: a health figure, not a correction.

A step of Langevin type proposes :math:`w'` from :math:`q(w' | w) = N(w - \tfrac12 S \nabla U(w), S)` with a diagonal
:math:`S`; it would be accepted with probability :math:`\min(1, e^r)`,

.. math::

    r &= U(w) - U(w') + \log q(w | w') - \log q(w' | w) \\
      &= n\beta \left( L(w) - L(w') + \tfrac12 (w' - w) \cdot (\nabla L(w) + \nabla L(w')) \right)
         + \tfrac18 \sum_i S_i \left( \partial_i U(w)^2 - \partial_i U(w')^2 \right).

The terms of localization and weight decay cancel in the first bracket, because a trapezium rule is exact for them. All is
evaluated on the minibatch of the step, so the figure says nothing of the noise of minibatches. With a ``noise_level`` of
:math:`\sigma` the law that is sampled has the potential :math:`U / \sigma^2`, and so does the test.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from devinterp.sampling.settings import Settings
from devinterp.types import Target, Transition

_LANGEVIN = {"gradient", "localization", "weight_decay", "noise"}


def proposes_langevin(transition: Transition, target: Target) -> bool:
    r"""Say whether a kernel's step is a Langevin proposal, :math:`w' \sim N(w - \tfrac12 S \nabla U(w), S)`.

    Found by trying: its terms on a few numbers are compared with that form. A preconditioner may have any memory.

    Parameters
    ----------
    transition : Transition
        The kernel with its settings.
    target : Target
        The posterior it samples.
    """
    generator = torch.Generator().manual_seed(0)
    values, origin, gradients = (torch.randn((1, 4), generator=generator, dtype=torch.float64) for _ in "wog")
    terms = transition.terms([values], [gradients], [origin], transition.init([values]), [torch.ones_like(values)])
    if not set(terms) <= _LANGEVIN or "noise" not in terms:
        return False
    drift = torch.stack([term[0] for name, term in terms.items() if name != "noise"]).sum(0)
    expected = -0.5 * terms["noise"][0] ** 2 * _slope([values], [gradients], [origin], target)[0]
    return bool(torch.allclose(drift, expected, rtol=1e-6, atol=0))


class Proposal:
    """A step about to be taken, remembered until the loss and gradient where it leads are known.

    Parameters
    ----------
    transition : Transition
        The kernel, which `proposes_langevin`. Its preconditioner is held fixed in the test.
    values, gradients, origin, state
        As for `Transition.terms`; copied.
    loss : Tensor
        Mean loss of the step's minibatches before it, ``(chain,)``.
    settings : Settings
        Of the run.
    """

    def __init__(
        self,
        transition: Transition,
        values: list[Tensor],
        gradients: list[Tensor],
        origin: list[Tensor],
        state: dict[str, list[Tensor]],
        loss: Tensor,
        settings: Settings,
    ) -> None:
        unit = [torch.ones_like(value) for value in values]
        scales = transition.terms(values, gradients, origin, state, unit)["noise"]
        self._variances = [scale.detach().square() for scale in scales]
        self._values = [value.detach().clone() for value in values]
        self._gradients = [gradient.clone() for gradient in gradients]
        self._origin, self._loss, self._settings = origin, loss, settings

    @torch.no_grad()
    def acceptance(self, values: list[Tensor], gradients: list[Tensor], loss: Tensor) -> Tensor:
        """Return the probability that it would be accepted, ``(chain,)``; 0 where the loss it leads to is not finite.

        Parameters
        ----------
        values, gradients : list of Tensor
            Where it led, and the gradients of the same minibatches there, ``(chain, *shape)`` each.
        loss : Tensor
            Their mean loss there, ``(chain,)``.
        """
        target, temperature = self._settings.target, self._settings.noise_level**2
        before = _slope(self._values, self._gradients, self._origin, target)
        after = _slope(values, gradients, self._origin, target)
        rise = self._loss.double() - loss.double()
        squares = torch.zeros_like(rise)
        parts = zip(self._values, values, self._gradients, gradients, before, after, self._variances, strict=True)
        for w, w_new, g, g_new, u, u_new, variance in parts:
            rise += _sum((w_new - w) * (g + g_new)) / 2
            squares += _sum(variance * (u.square() - u_new.square())) / 8
        ratio = (target.n_beta * rise + squares) / temperature
        return torch.nan_to_num(ratio.clamp(max=0).exp(), nan=0.0).float()


def mean_loss(losses: Tensor, num_batches: int) -> Tensor:
    """Return the mean of the means of a step's minibatches, ``(chain,)``, of the losses that count (are not NaN).

    Parameters
    ----------
    losses : Tensor
        ``(chain, batch, *loss_dims)``.
    num_batches : int
        Minibatches that the step accumulates, one after the other along ``batch``.
    """
    return losses.double().view(losses.shape[0], num_batches, -1).nanmean(2).mean(1)


def _slope(
    values: Sequence[Tensor], gradients: Sequence[Tensor], origin: Sequence[Tensor], target: Target
) -> list[Tensor]:
    """Return the gradient of U."""
    return [
        target.n_beta * g + target.localization * (w - w0) + target.weight_decay * w
        for w, g, w0 in zip(values, gradients, origin, strict=True)
    ]


def _sum(terms: Tensor) -> Tensor:
    return terms.reshape(terms.shape[0], -1).double().sum(1)
