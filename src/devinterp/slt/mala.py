"""How often a Metropolis test would accept a step, under the import path of DevInterp 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from devinterp.errors import InvalidInputError
from devinterp.slt.callback import SamplerCallback

_Tensors = Tensor | Sequence[Tensor]


def mala_acceptance_probability(
    prev_params: _Tensors,
    prev_grads: _Tensors,
    prev_loss: Any,
    current_params: _Tensors,
    current_grads: _Tensors,
    current_loss: Any,
    learning_rate: float,
) -> float:
    r"""Return the probability with which a Metropolis-adjusted Langevin step would be accepted.

    .. math:: \min\left(1, e^{U - U'} \frac{q(w | w')}{q(w' | w)}\right), \quad
        q(w' | w) \propto e^{-|w' - w + (\epsilon/2) \nabla U(w)|^2 / (2 \epsilon)}

    Parameters
    ----------
    prev_params, prev_grads, prev_loss : Tensor or sequence of Tensor
        :math:`w`, :math:`\nabla U(w)` and :math:`U(w)`.
    current_params, current_grads, current_loss : Tensor or sequence of Tensor
        The same at :math:`w'`.
    learning_rate : float
        :math:`\epsilon`.
    """
    before, slope, after, slope_after = (
        torch.cat([t.detach().double().reshape(-1) for t in ([each] if isinstance(each, Tensor) else each)])
        for each in (prev_params, prev_grads, current_params, current_grads)
    )
    forward = ((after - before + learning_rate / 2 * slope) ** 2).sum()
    back = ((before - after + learning_rate / 2 * slope_after) ** 2).sum()
    log = float(prev_loss) - float(current_loss) + float(forward - back) / (2 * learning_rate)
    return math.exp(min(0.0, log)) if math.isfinite(log) else 0.0


class MalaAcceptanceRate(SamplerCallback):
    """The acceptance probability of the step from each draw to the next, where draws are one step apart.

    Parameters
    ----------
    num_chains, num_draws : int
        Of the run.
    learning_rate : float
        Step size of the optimizer.
    device : str or torch.device, default: "cpu"
        Where results are kept.
    nbeta, temperature : float
        The inverse temperature times the sample size; the second is its older name.
    """

    def __init__(
        self,
        num_chains: int,
        num_draws: int,
        learning_rate: float,
        device: str | torch.device = "cpu",
        nbeta: float | None = None,
        temperature: float | None = None,
    ) -> None:
        super().__init__(device)
        self.learning_rate, self.nbeta = learning_rate, temperature if nbeta is None else nbeta
        self.mala_acceptance_rate = torch.full((num_chains, num_draws - 1), torch.nan, device=self.device)
        self._before: tuple[list[Tensor], list[Tensor], float] | None = None

    def __call__(self, chain: int, draw: int, model: nn.Module, loss: Any, optimizer: Any, **kwargs: Any) -> None:
        """Take in a draw."""
        self.update(chain, draw, model, loss, optimizer)

    def update(self, chain: int, draw: int, model: nn.Module, loss: Any, optimizer: Any) -> None:
        """Take in the weights before a draw's step, and the slope there."""
        if not getattr(optimizer, "save_metrics", False):
            raise InvalidInputError(
                "`MalaAcceptanceRate` needs the weights before steps: pass optimizer_kwargs={'save_mala_vars': True, ...}."
            )
        weights, slopes, energy = optimizer.before_last_step(float(loss))
        if draw > 0 and self._before is not None:
            probability = mala_acceptance_probability(*self._before, weights, slopes, energy, self.learning_rate)
            self.mala_acceptance_rate[chain, draw - 1] = probability
        self._before = (weights, slopes, energy)

    def get_results(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return ``mala_accept/trace`` ``(chain, draw - 1)``, ``mala_accept/mean`` and ``mala_accept/std`` over all of it."""
        rates = self.mala_acceptance_rate.cpu().numpy().copy()
        return {"mala_accept/trace": rates, "mala_accept/mean": rates.mean(), "mala_accept/std": rates.std()}
