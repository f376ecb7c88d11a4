"""What kind of module one is, and which dimension of its parameters runs over its outputs."""

from __future__ import annotations

from torch import Tensor, nn


def is_norm(module: nn.Module) -> bool:
    """Say whether a module is a normalisation: named so, holding scales only, and wrapping nothing but another one."""
    named = "norm" in type(module).__name__.lower()
    wraps = [child for child in module.children() if any(True for _ in child.parameters())]
    return named and all(is_norm(child) for child in wraps) and all(p.ndim <= 2 for p in module.parameters())


def is_projection(module: nn.Module) -> bool:
    """Say whether a module owns a matrix that mixes features: no norm, no embedding, no depthwise convolution."""
    if is_norm(module) or isinstance(module, nn.Embedding):
        return False
    if isinstance(module, nn.Conv1d | nn.Conv2d) and module.groups > 1:
        return False
    return any(p.ndim >= 2 for p in module.parameters(recurse=False))


def output_dim(module: nn.Module, parameter: Tensor, width: int | None) -> int | None:
    """Return the dimension of a projection's parameter that runs over its `width` outputs, or None if there is none."""
    if width is None or parameter.ndim > 2:
        return None
    # GPT-2's Conv1D keeps its matrix transposed.
    order = (1, 0) if type(module).__name__ == "Conv1D" and parameter.ndim == 2 else (0, 1)
    return next((dim for dim in order if dim < parameter.ndim and parameter.shape[dim] == width), None)
