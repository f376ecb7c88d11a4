"""One run of a few tokens through a model, watched: which modules run, in which order, on what, and which attend."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from devinterp.models.forward import evaluating

FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, AttributeError, KeyError)
"""What a module may raise when it is run out of its context."""

Call = tuple[tuple[Any, ...], dict[str, Any]]


def is_attention_weights(weights: Tensor) -> bool:
    """Say whether what a softmax returned weighs tokens for several heads; a router's weights have no such dimension."""
    return weights.ndim >= 4 or (weights.ndim == 3 and weights.shape[-1] == weights.shape[-2])


def _heads(shape: torch.Size) -> tuple[int, ...]:
    return tuple(dict.fromkeys((shape[:-2].numel(), *shape[-3:-2])))


class WatchAttention(TorchFunctionMode):
    """Calls `seen` with what each softmax over tokens returns, whoever calls it.

    Parameters
    ----------
    seen : callable
        ``seen(out, heads, num_queries)``; `out` are attention weights, or what the fused function returns; `heads` what
        the number of heads may be: all leading dimensions (key/value heads by heads of each), or the last of them.
    frozen : bool, optional
        Let no gradient pass through attention weights, so that only values are left.
    """

    def __init__(self, seen: Callable[[Tensor, tuple[int, ...], int], None], frozen: bool = False) -> None:
        super().__init__()
        self.seen = seen
        self.frozen = frozen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func`, watching attention."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            query, key, *rest = args if len(args) >= 2 else (kwargs.pop("query"), kwargs.pop("key"))
            if self.frozen:
                query, key = query.detach(), key.detach()
            out = func(query, key, *rest, **kwargs)
            self.seen(out, _heads(query.shape), query.shape[-2])
            return out
        out = func(*args, **kwargs)
        if name == "logsumexp" and self.frozen:
            return out.detach()
        if name == "softmax" and is_attention_weights(out):
            out = out.detach() if self.frozen else out
            self.seen(out, _heads(out.shape), out.shape[-2])
        return out


@dataclass
class Trace:
    """What a run has shown.

    Parameters
    ----------
    calls : dict
        Arguments of the first call of every module that ran, by path, in the order in which they began.
    widths : dict
        Size of the last dimension of what each module returned first, where that is a tensor.
    sites : list
        Paths of the innermost modules that ran a softmax over tokens.
    ids : torch.Tensor
        The tokens that were run, of shape ``(1, token)``.
    logits : torch.Tensor
        What came out.
    """

    calls: dict[str, Call] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    sites: list[str] = field(default_factory=list)
    ids: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


def trace(model: nn.Module, run: Callable[[Tensor], Tensor], ids: Tensor) -> Trace:
    """Run `model` once on `ids` and return what was seen; its hooks, modes and state are as before."""
    seen, stack = Trace(ids=ids), [""]

    def enter(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            stack.append(path)
            seen.calls.setdefault(path, (args, kwargs))

        return hook

    def leave(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            stack.pop()
            if isinstance(output, Tensor) and output.ndim:
                seen.widths.setdefault(path, output.shape[-1])

        return hook

    def attended(out: Tensor, heads: tuple[int, ...], num_queries: int) -> None:
        if stack[-1] not in seen.sites:
            seen.sites.append(stack[-1])

    hooks = []
    for path, module in model.named_modules():
        if path:
            hooks.append(module.register_forward_pre_hook(enter(path), with_kwargs=True))
            hooks.append(module.register_forward_hook(leave(path)))
    try:
        with torch.no_grad(), evaluating(model), WatchAttention(attended):
            seen.logits = run(ids)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def tensors(call: Call) -> Iterable[Tensor]:
    """Return the floating-point tensors among the arguments of a call, hidden states first."""
    args, kwargs = call
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.is_floating_point():
            yield value


def is_norm(module: nn.Module) -> bool:
    """Say whether a module is a normalisation: named so, holding scales only, and wrapping nothing but another one."""
    named = "norm" in type(module).__name__.lower()
    wraps = [child for child in module.children() if any(True for _ in child.parameters())]
    return named and all(is_norm(child) for child in wraps) and all(p.ndim <= 2 for p in module.parameters())


def is_projection(module: nn.Module) -> bool:
    """Say whether a module owns a matrix that mixes features: no norm, no table, no depthwise convolution."""
    if is_norm(module) or isinstance(module, nn.Embedding):
        return False
    if isinstance(module, nn.Conv1d | nn.Conv2d) and module.groups > 1:
        return False
    return any(p.ndim >= 2 for p in module.parameters(recurse=False))
