"""Norms of weights, gradients and noise at draws, under the import path of DevInterp 1."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from devinterp.errors import InvalidInputError
from devinterp.slt.callback import SamplerCallback


class _Norm(SamplerCallback):
    name = ""

    def __init__(self, num_chains: int, num_draws: int, p_norm: int = 2, device: str | torch.device = "cpu") -> None:
        super().__init__(device)
        self.p_norm = p_norm
        self.norms = torch.full((num_chains, num_draws), torch.nan, device=self.device)

    def _set(self, chain: int, draw: int, tensors: Iterable[Tensor]) -> None:
        each = torch.stack([torch.linalg.vector_norm(t.detach().float(), self.p_norm) for t in tensors])
        self.norms[chain, draw] = torch.linalg.vector_norm(each, self.p_norm)

    def get_results(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the norms ``(chain, draw)``."""
        return {f"{self.name}_norm/trace": self.norms.cpu().numpy().copy()}


class WeightNorm(_Norm):
    """The norm of all weights of the model.

    Parameters
    ----------
    num_chains, num_draws : int
        Of the run.
    p_norm : int, default: 2
        Which norm.
    device : str or torch.device, default: "cpu"
        Where results are kept.
    """

    name = "weight"

    def __call__(self, chain: int, draw: int, model: nn.Module, **kwargs: Any) -> None:
        """Take in a draw."""
        self.update(chain, draw, model)

    def update(self, chain: int, draw: int, model: nn.Module) -> None:
        """Take in the weights of a draw."""
        self._set(chain, draw, model.parameters())


class GradientNorm(_Norm):
    """The norm of the gradients of the sampled weights; parameters as `WeightNorm`'s."""

    name = "gradient"

    def __call__(self, chain: int, draw: int, optimizer: torch.optim.Optimizer, **kwargs: Any) -> None:
        """Take in a draw."""
        self.update(chain, draw, optimizer.param_groups)

    def update(self, chain: int, draw: int, param_groups: Any) -> None:
        """Take in the gradients of a draw."""
        self._set(chain, draw, [p.grad for group in param_groups for p in group["params"] if p.grad is not None])


class NoiseNorm(_Norm):
    """The norm of the noise that a step adds; parameters as `WeightNorm`'s. The optimizer needs ``save_noise=True``."""

    name = "noise"

    def __call__(self, chain: int, draw: int, optimizer: Any, **kwargs: Any) -> None:
        """Take in a draw."""
        self.update(chain, draw, optimizer)

    def update(self, chain: int, draw: int, optimizer: Any) -> None:
        """Take in the noise of a draw."""
        if not getattr(optimizer, "noise", None):
            raise InvalidInputError(
                "`NoiseNorm` needs the noise of steps: pass optimizer_kwargs={'save_noise': True, ...}."
            )
        self._set(chain, draw, optimizer.noise)
