"""Fused attention under vmap: the mapped dimension is folded into the batch, where torch would loop over it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode


@final
class FoldedAttention(TorchFunctionMode):
    """Inside, ``scaled_dot_product_attention`` under vmap calls the fused kernels once for all that is mapped.

    Attributes
    ----------
    num_calls : int
        How often it was called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.num_calls = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is scaled_dot_product_attention:
            self.num_calls += 1
            return _attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if dropout_p or any(tensor.ndim != 4 for tensor in (query, key, value)):
        with sdpa_kernel(SDPBackend.MATH):  # whose operations torch maps one by one
            return scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
    attended: Tensor = _Attention.apply(query, key, value, attn_mask, is_causal, scale, enable_gqa)  # type: ignore[no-untyped-call]
    return attended


class _Attention(torch.autograd.Function):
    """Attention of ``(batch, head, token, width)``, with a rule for vmap."""

    @staticmethod
    def forward(
        query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float | None, gqa: bool
    ) -> Tensor:
        """Return what attention gives where nothing is mapped."""
        return scaled_dot_product_attention(query, key, value, mask, 0.0, causal, scale=scale, enable_gqa=gqa)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep the inputs: nothing that is not mapped depends on sampled weights, so this is hardly ever needed."""
        *tensors, ctx.causal, ctx.scale, ctx.gqa = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients, computing anew what they need."""
        *saved, mask = ctx.saved_tensors
        with torch.enable_grad():
            q, k, v = inputs = [tensor.detach().requires_grad_(True) for tensor in saved]
            output = scaled_dot_product_attention(q, k, v, mask, 0.0, ctx.causal, scale=ctx.scale, enable_gqa=ctx.gqa)
        return (*torch.autograd.grad(output, inputs, gradient), None, None, None, None)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        """Return attention of all that is mapped, with the mapped dimension first."""
        num = info.batch_size
        query, key, value = (_folded(tensor, dim, num) for tensor, dim in zip(args[:3], in_dims[:3], strict=True))
        mask = None if args[3] is None else _folded_mask(args[3], in_dims[3], num, len(query) // num)
        causal, scale, gqa = args[4:]
        output = scaled_dot_product_attention(query, key, value, mask, 0.0, causal, scale=scale, enable_gqa=gqa)
        return output.view(num, -1, *output.shape[1:]), 0


def _folded(tensor: Tensor, dim: int | None, num: int) -> Tensor:
    """Return a tensor with the mapped dimension folded into its first one."""
    mapped = tensor.expand(num, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return mapped.flatten(0, 1)


def _folded_mask(mask: Tensor, dim: int | None, num: int, batch: int) -> Tensor:
    """Return a mask of which one serves all sequences as it is, others with the mapped dimension folded into the batch."""
    if dim is None and (mask.ndim < 4 or len(mask) == 1):
        return mask
    mapped = mask.expand(num, *mask.shape) if dim is None else mask.movedim(dim, 0)
    while mapped.ndim < 5:
        mapped = mapped.unsqueeze(1)
    return mapped.expand(num, batch, *mapped.shape[2:]).flatten(0, 1)
