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

from dataclasses import replace

import torch
from torch import Tensor

from devinterp.sampling.settings import Settings
from devinterp.types import StepInputs, Target, Transition

_LANGEVIN = {"gradient", "localization", "weight_decay", "noise"}


def proposes_langevin(transition: Transition, target: Target) -> bool:
    r"""Say whether a kernel's step is a Langevin proposal, :math:`w' \sim N(w - \tfrac12 S \nabla U(w), S)`.

    Its terms on a few random numbers are compared with that form, so any preconditioner may be used, whatever it remembers.
    Kernels with momentum, and those whose noise is correlated between steps, do not propose so: the acceptance of a single
    step is not defined for them.

    Parameters
    ----------
    transition : Transition
        The kernel with its settings.
    target : Target
        The posterior it samples.
    """
    generator = torch.Generator().manual_seed(0)
    values, initial_weights, gradients = (torch.randn((1, 4), generator=generator, dtype=torch.float64) for _ in "wig")
    step = StepInputs([values], [gradients], [initial_weights], transition.init([values]), [torch.ones_like(values)])
    terms = transition.terms(step)
    if not set(terms) <= _LANGEVIN or "noise" not in terms:
        return False
    drift = torch.stack([term[0] for name, term in terms.items() if name != "noise"]).sum(0)
    expected = -0.5 * terms["noise"][0] ** 2 * _slope(step, target)[0]
    return bool(torch.allclose(drift, expected, rtol=1e-6, atol=0))


class Proposal:
    """A step about to be taken, kept until the loss and gradient where it leads are known.

    Parameters
    ----------
    transition : Transition
        The kernel, which `proposes_langevin`. Its preconditioner is held fixed in the test.
    step : StepInputs
        The step; what is needed of it is copied, and its noise is not drawn.
    loss : Tensor
        Mean loss of the step's minibatches before it, ``(chain,)``.
    settings : Settings
        Of the run.
    """

    def __init__(self, transition: Transition, step: StepInputs, loss: Tensor, settings: Settings) -> None:
        unit_noise = [torch.ones_like(value) for value in step.values]
        scales = transition.terms(replace(step, noise=unit_noise))["noise"]
        self._variances = [scale.detach().square() for scale in scales]
        values = [value.detach().clone() for value in step.values]
        self._before = replace(step, values=values, gradients=[gradient.clone() for gradient in step.gradients])
        self._loss, self._settings = loss, settings

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
        start, end = self._before, replace(self._before, values=values, gradients=gradients)
        slopes, new_slopes = _slope(start, target), _slope(end, target)
        rise = self._loss.double() - loss.double()
        squares = torch.zeros_like(rise)
        parts = zip(start.values, values, start.gradients, gradients, slopes, new_slopes, self._variances, strict=True)
        for w, w_new, g, g_new, u, u_new, variance in parts:
            rise += _sum((w_new - w) * (g + g_new)) / 2
            squares += _sum(variance * (u.square() - u_new.square())) / 8
        ratio = (target.n_beta * rise + squares) / temperature
        return torch.nan_to_num(ratio.clamp(max=0).exp(), nan=0.0).float()


def mean_loss(losses: Tensor, num_batches: int) -> Tensor:
    """Return the mean of the means of a step's minibatches, ``(chain,)``, of the unmasked losses (not NaN).

    Parameters
    ----------
    losses : Tensor
        ``(chain, batch, *loss_dims)``.
    num_batches : int
        Minibatches that the step accumulates, one after the other along ``batch``.
    """
    return losses.double().view(losses.shape[0], num_batches, -1).nanmean(2).mean(1)


def _slope(step: StepInputs, target: Target) -> list[Tensor]:
    """Return the gradient of U where the step starts."""
    return [
        target.n_beta * g + target.localization * (w - w0) + target.weight_decay * w
        for w, g, w0 in zip(step.values, step.gradients, step.initial_weights, strict=True)
    ]


def _sum(terms: Tensor) -> Tensor:
    return terms.reshape(terms.shape[0], -1).double().sum(1)
