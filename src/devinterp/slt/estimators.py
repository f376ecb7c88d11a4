"""Learning coefficients from the losses at draws, as callbacks of DevInterp 1's `sample`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from devinterp.errors import InvalidInputError
from devinterp.slt.callback import SamplerCallback


class LossTrace(SamplerCallback):
    """Keeps the loss of every draw.

    Parameters
    ----------
    num_chains, num_draws : int
        Of the run.
    device : str or torch.device, default: "cpu"
        Where they are kept.
    eval_field : str, default: "loss"
        Which of the evaluation's results the loss is.
    """

    def __init__(
        self, num_chains: int, num_draws: int, device: str | torch.device = "cpu", eval_field: str = "loss"
    ) -> None:
        super().__init__(device)
        self.num_chains, self.num_draws, self.eval_field = num_chains, num_draws, eval_field
        self.losses = torch.full((num_chains, num_draws), torch.nan, device=self.device)

    def __call__(self, chain: int, draw: int, **kwargs: Any) -> None:
        """Take in a draw."""
        self.update(chain, draw, kwargs[self.eval_field])

    def update(self, chain: int, draw: int, loss: Any) -> None:
        """Take in the loss of a draw."""
        self.losses[chain, draw] = float(torch.as_tensor(loss).detach().float().mean())

    def running_means(self) -> torch.Tensor:
        """Return the mean of each chain's losses up to each draw, ``(chain, draw)``."""
        counts = torch.arange(1, self.num_draws + 1, device=self.device)
        return (self.losses.double().cumsum(1) / counts).float()

    def trace(self) -> np.ndarray:
        """Return the losses, ``(chain, draw)``."""
        return self.losses.cpu().numpy().copy()


class _Estimator(LossTrace):
    def __init__(
        self,
        num_chains: int,
        num_draws: int,
        init_loss: Any,
        device: str | torch.device = "cpu",
        eval_field: str = "loss",
        nbeta: float | None = None,
        temperature: float | None = None,
    ) -> None:
        super().__init__(num_chains, num_draws, device, eval_field)
        chosen = temperature if nbeta is None else nbeta
        if chosen is None:
            raise InvalidInputError("`nbeta` is needed: `devinterp.utils.default_nbeta(loader)` is the usual one.")
        self.init_loss, self.nbeta, self.temperature = float(init_loss), float(chosen), temperature

    def _rise(self, losses: torch.Tensor) -> torch.Tensor:
        return self.nbeta * (losses - self.init_loss)


class LLCEstimator(_Estimator):
    r"""The learning coefficient :math:`n\beta (\mathrm{E}[L] - L(w_0))` of each chain, over its draws.

    Parameters
    ----------
    num_chains, num_draws : int
        Of the run.
    init_loss : float
        :math:`L(w_0)`.
    device, eval_field : object, optional
        As in `LossTrace`.
    nbeta, temperature : float
        :math:`n\beta`; the second is its older name.
    """

    def finalize(self, *args: Any, **kwargs: Any) -> None:
        """Compute the estimates."""
        self.llc_per_chain = self._rise(self.losses.double().mean(1)).float()
        self.llc_mean = self.llc_per_chain.mean()
        self.llc_std = self.llc_per_chain.std() if self.num_chains > 1 else torch.zeros(())

    def get_results(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return ``llc/mean``, ``llc/std`` (over chains), ``llc-chain/0`` ... and ``loss/trace``."""
        self.finalize()
        per_chain = {f"llc-chain/{n}": float(each) for n, each in enumerate(self.llc_per_chain)}
        return {
            "llc/mean": float(self.llc_mean),
            "llc/std": float(self.llc_std),
            **per_chain,
            "loss/trace": self.trace(),
        }


class OnlineLLCEstimator(_Estimator):
    r"""The learning coefficient of each chain from its draws so far, at every draw; parameters as `LLCEstimator`'s."""

    @property
    def llcs(self) -> torch.Tensor:
        """The estimates, ``(chain, draw)``."""
        return self._rise(self.running_means())

    def finalize(self, *args: Any, **kwargs: Any) -> None:
        """Compute means and standard deviations over chains."""
        self.llc_means = self.llcs.mean(0)
        self.llc_stds = self.llcs.std(0) if self.num_chains > 1 else torch.zeros(self.num_draws)

    def get_results(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return ``init_loss``, ``llc/means`` and ``llc/stds`` ``(draw,)``, ``llc/trace`` and ``loss/trace``."""
        self.finalize()
        return {
            "init_loss": self.init_loss,
            "llc/means": self.llc_means.cpu().numpy(),
            "llc/stds": self.llc_stds.cpu().numpy(),
            "llc/trace": self.llcs.cpu().numpy(),
            "loss/trace": self.trace(),
        }
