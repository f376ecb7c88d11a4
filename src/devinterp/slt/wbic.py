"""The widely applicable Bayesian information criterion at draws, under the import path of DevInterp 1."""

from __future__ import annotations

from typing import Any

import torch

from devinterp.slt.estimators import LossTrace


class OnlineWBICEstimator(LossTrace):
    """The mean of n times the loss over the draws so far, at every draw of every chain.

    Parameters
    ----------
    num_chains, num_draws : int
        Of the run.
    n : int
        Number of samples.
    device : str or torch.device, default: "cpu"
        Where they are kept.
    """

    def __init__(self, num_chains: int, num_draws: int, n: int, device: str | torch.device = "cpu") -> None:
        super().__init__(num_chains, num_draws, device)
        self.n = n

    def get_results(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return ``wbic/means`` and ``wbic/stds`` ``(draw,)``, ``wbic/trace`` and ``loss/trace`` ``(chain, draw)``."""
        wbics = self.n * self.running_means()
        stds = wbics.std(0) if self.num_chains > 1 else torch.zeros(self.num_draws)
        return {
            "wbic/means": wbics.mean(0).cpu().numpy(),
            "wbic/stds": stds.cpu().numpy(),
            "wbic/trace": wbics.cpu().numpy(),
            "loss/trace": self.trace(),
        }
