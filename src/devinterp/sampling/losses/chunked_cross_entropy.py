"""Cross-entropy from hidden states in row chunks: the logits of all tokens never exist together."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

#: A chunk of logits should stay in a processor's cache, and be large enough to keep its matrix units busy.
_CPU_CHUNK_BYTES, _GPU_CHUNK_BYTES = 8 * 2**20, 512 * 2**20
_MIN_CHUNK_ROWS = 256


def chunk_rows(num_rows: int, vocabulary: int, device: torch.device) -> int:
    """Return how many rows of float32 logits to hold at once."""
    budget = _CPU_CHUNK_BYTES if device.type == "cpu" else _GPU_CHUNK_BYTES
    return max(1, min(num_rows, max(_MIN_CHUNK_ROWS, budget // (4 * vocabulary))))


def token_losses(
    hidden: Float[Tensor, "row width"],
    weight: Float[Tensor, "vocabulary width"],
    bias: Float[Tensor, " vocabulary"] | None,
    targets: Int[Tensor, " row"],
    *,
    scale: float = 1.0,
    cap: float | None = None,
) -> Float[Tensor, " row"]:
    """Return the cross-entropy of each row's target, in float32; no gradient.

    Parameters
    ----------
    hidden, weight, bias
        Logits are ``cap(scale * (hidden @ weight.T + bias))``.
    targets : Tensor
        Index of the right entry of each row.
    scale, cap : float
        See `devinterp.sampling.losses.unembedding.Unembedding`.
    """
    losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    with torch.no_grad():
        for part in _parts(hidden, weight):
            logits = _logits(hidden[part], weight, bias, scale, cap)
            losses[part] = torch.nn.functional.cross_entropy(logits, targets[part], reduction="none")
            del logits  # before the next chunk's are made
    return losses


class WeightedLoss(torch.autograd.Function):
    r"""The weighted sum of token losses, :math:`\sum_i r_i \ell_i`, and the losses themselves (not differentiable).

    The gradient is made together with the loss, chunk by chunk: with :math:`p` the softmax of the logits, the gradient
    with respect to a row's logits is :math:`r_i (p_i - e_{y_i})`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        row_weights: Tensor,
        scale: float,
        cap: float | None,
    ) -> tuple[Tensor, Tensor]:
        """Return the weighted sum and the losses; keep the gradients."""
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if wants_bias and bias is not None else None
        for part in _parts(hidden, weight):
            logits = _logits(hidden[part], weight, bias, scale, cap)
            right = targets[part, None]
            chosen = logits.gather(1, right)
            # Softmax in place: what were the logits becomes the gradient with respect to them.
            slope = None if cap is None else 1 - (logits / cap) ** 2
            top = logits.amax(1, keepdim=True)
            logits.sub_(top).exp_()
            total = logits.sum(1, keepdim=True)
            losses[part] = (total.log() + top - chosen)[:, 0]
            logits.mul_(row_weights[part, None] / total)
            logits.scatter_add_(1, right, -row_weights[part, None])
            if slope is not None:
                logits.mul_(slope)
            if scale != 1:
                logits.mul_(scale)
            gradient = logits.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(gradient, weight, out=grad_hidden[part])
            if grad_weight is not None:
                _add_product(grad_weight, gradient, hidden[part])
            if grad_bias is not None:
                grad_bias += logits.sum(0)
            del logits, gradient  # before the next chunk's are made
        ctx.save_for_backward(
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
        )
        ctx.mark_non_differentiable(losses)
        return (losses * row_weights).sum(), losses

    @staticmethod
    def backward(ctx: Any, grad_sum: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients kept by `forward`, times that of the sum."""
        kept = [None if g is None else g.mul_(grad_sum.to(g.dtype)) for g in ctx.saved_tensors]
        return (*kept, None, None, None, None)


def _parts(hidden: Tensor, weight: Tensor) -> list[slice]:
    rows = chunk_rows(len(hidden), len(weight), hidden.device)
    return [slice(start, start + rows) for start in range(0, len(hidden), rows)]


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, cap: float | None) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    if scale != 1:
        logits = logits.mul_(scale)
    return logits if cap is None else logits.div_(cap).tanh_().mul_(cap)


def _add_product(total: Tensor, gradient: Tensor, hidden: Tensor) -> None:
    """Add ``gradient.T @ hidden`` to a float32 total."""
    if gradient.dtype == total.dtype:
        total.addmm_(gradient.t(), hidden)
    else:
        total.add_(gradient.t() @ hidden)
