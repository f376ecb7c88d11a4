"""A recorded run of a model on a few tokens: which modules run, in which order, on what, and which compute attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from devinterp.models.forward import evaluating
from devinterp.models.kept_attributes import attributes_kept
from devinterp.models.structure.running import leading_output

FAILURES = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, AttributeError, KeyError)
"""What a module may raise when it is run outside of its model."""

Call = tuple[tuple[Any, ...], dict[str, Any]]


def is_attention_weights(weights: Tensor) -> bool:
    """Say whether the output of a softmax weighs tokens for several heads; a router's weights have no such dimension."""
    return weights.ndim >= 4 or (weights.ndim == 3 and weights.shape[-1] == weights.shape[-2])


def _num_heads(shape: torch.Size) -> tuple[int, ...]:
    return tuple(dict.fromkeys((shape[:-2].numel(), *shape[-3:-2])))


class AttentionWatcher(TorchFunctionMode):
    """Calls a function with the output of each softmax over tokens, whichever module runs it.

    Parameters
    ----------
    on_attention : callable
        ``on_attention(out, num_heads, num_queries)``; `out` are attention weights, or the output of the fused function;
        `num_heads` are the possible numbers of heads: the product of all leading dimensions (key/value heads times heads
        of each), and the last of them.
    detach_weights : bool, optional
        Let no gradient pass through attention weights, so that it passes through values only.
    """

    def __init__(
        self, on_attention: Callable[[Tensor, tuple[int, ...], int], None], detach_weights: bool = False
    ) -> None:
        super().__init__()
        self.on_attention = on_attention
        self.detach_weights = detach_weights

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func`, watching attention."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "scaled_dot_product_attention":
            query, key, *rest = args if len(args) >= 2 else (kwargs.pop("query"), kwargs.pop("key"))
            if self.detach_weights:
                query, key = query.detach(), key.detach()
            out = func(query, key, *rest, **kwargs)
            self.on_attention(out, _num_heads(query.shape), query.shape[-2])
            return out
        out = func(*args, **kwargs)
        if name == "logsumexp" and self.detach_weights:
            return out.detach()
        if name == "softmax" and is_attention_weights(out):
            out = out.detach() if self.detach_weights else out
            self.on_attention(out, _num_heads(out.shape), out.shape[-2])
        return out


@dataclass
class Trace:
    """The record of one run of a model.

    Parameters
    ----------
    calls : dict
        Arguments of the first call of every module that ran, by path, in the order in which they began.
    widths : dict
        Size of the last dimension of the first output of each module that returns a tensor.
    softmaxes : list
        Paths of the innermost modules that ran a softmax over tokens.
    ids : torch.Tensor
        The tokens, of shape ``(1, token)``.
    logits : torch.Tensor
        The model's logits.
    """

    calls: dict[str, Call] = field(default_factory=dict)
    widths: dict[str, int] = field(default_factory=dict)
    softmaxes: list[str] = field(default_factory=list)
    ids: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    logits: Tensor = field(default_factory=lambda: torch.empty(0))


def record_trace(model: nn.Module, run: Callable[[Tensor], Any], ids: Tensor) -> Trace:
    """Run `model` once on `ids` and return the record; its hooks, modes and state are as before."""
    trace, stack = Trace(ids=ids), [""]

    def enter(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            stack.append(path)
            trace.calls.setdefault(path, (args, kwargs))

        return hook

    def leave(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            stack.pop()
            if isinstance(output, Tensor) and output.ndim:
                trace.widths.setdefault(path, output.shape[-1])

        return hook

    def on_attention(out: Tensor, num_heads: tuple[int, ...], num_queries: int) -> None:
        if stack[-1] not in trace.softmaxes:
            trace.softmaxes.append(stack[-1])

    hooks = []
    for path, module in model.named_modules():
        if path:
            hooks.append(module.register_forward_pre_hook(enter(path), with_kwargs=True))
            hooks.append(module.register_forward_hook(leave(path)))
    try:
        with torch.no_grad(), attributes_kept(model), evaluating(model), AttentionWatcher(on_attention):
            trace.logits = leading_output(run(ids))
    finally:
        for hook in hooks:
            hook.remove()
    return trace


def float_arguments(call: Call) -> Iterator[Tensor]:
    """Yield the floating-point tensors among the arguments of a call, positional ones first."""
    args, kwargs = call
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and value.is_floating_point():
            yield value


def first_tensor(output: Any) -> Tensor | None:
    """Return the first tensor of what a module returned: a tensor, or a tuple or list of anything."""
    outputs = output if isinstance(output, tuple | list) else (output,)
    return next((value for value in outputs if isinstance(value, Tensor)), None)
