"""Whether chains fall below the loss that they started from, under the import path of DevInterp 1."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from devinterp.slt.callback import SamplerCallback
from devinterp.slt.estimators import OnlineLLCEstimator


class OnlineLossStatistics(SamplerCallback):
    """Statistics of the losses that an `OnlineLLCEstimator` keeps, at every draw.

    Parameters
    ----------
    base_callback : OnlineLLCEstimator
        Called before this one.
    """

    def __init__(self, base_callback: OnlineLLCEstimator) -> None:
        super().__init__(base_callback.device)
        self.base_callback = base_callback

    def __call__(self, chain: int, draw: int, loss: Any, **kwargs: Any) -> None:
        """Take in a draw: the estimator keeps it."""
        self.update(chain, draw, loss)

    def update(self, chain: int, draw: int, loss: Any) -> None:
        """Take in the loss of a draw: the estimator keeps it."""

    def est_minibatch_noise(self) -> torch.Tensor:
        """Return the standard deviation of the losses of each chain, ``(chain,)``."""
        return self.base_callback.losses.std(1)

    def loss_hist_by_draw(self, draw: int = 0, bins: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """Return counts and edges of the histogram over chains of the losses of a draw."""
        return np.histogram(self.base_callback.losses[:, draw].cpu().numpy(), bins=bins)

    def get_results(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return, ``(chain, draw)`` each, over the draws so far.

        ``loss/percent_neg_steps`` and ``loss/percent_mean_neg_steps`` are the shares of draws whose loss, or mean loss so far,
        is below the initial one; ``loss/percent_thresholded_neg_steps`` the share below it by more than the standard deviation
        of the chain's losses; ``loss/z_scores`` how many such standard deviations the loss of a draw is above the initial one.
        """
        losses, start = self.base_callback.losses, self.base_callback.init_loss
        noise = self.est_minibatch_noise()[:, None]
        counts = torch.arange(1, losses.shape[1] + 1, device=losses.device)

        def share(below: torch.Tensor) -> np.ndarray:
            return (below.float().cumsum(1) / counts).cpu().numpy()

        return {
            "loss/percent_neg_steps": share(losses < start),
            "loss/percent_mean_neg_steps": share(self.base_callback.running_means() < start),
            "loss/percent_thresholded_neg_steps": share(losses < start - noise),
            "loss/z_scores": ((losses - start) / noise).cpu().numpy(),
        }
