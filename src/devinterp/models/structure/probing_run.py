"""Runs of a copy of one module with random weights: what its parts read and return, with gradients.

Trained and freshly initialised weights may have exact zeros, which would hide dependences: hence random ones. Norms keep
their scales only: a norm over the width of all heads would couple every head to every other through one number.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from devinterp.models.structure.module_kinds import is_norm, is_projection
from devinterp.models.structure.trace import AttentionWatcher, Call, first_tensor, float_arguments

SEED = 20


def probing_copy(module: nn.Module, scale_only_norms: bool = True) -> nn.Module:
    """Return a float32 copy of `module` on the CPU, with random weights, norms that only scale, and no hooks."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        # Weights are replaced anyway: share nothing, and copy from no other device.
        fresh = torch.empty(tensor.shape, dtype=torch.float32 if tensor.is_floating_point() else tensor.dtype)
        if isinstance(tensor, nn.Parameter):
            memo[id(tensor)] = nn.Parameter(fresh, requires_grad=tensor.is_floating_point())
        else:
            memo[id(tensor)] = torch.zeros_like(fresh) if tensor.is_meta else fresh.copy_(tensor)
    twin = copy.deepcopy(module, memo)
    generator = torch.Generator().manual_seed(SEED)
    for parameter in twin.parameters():
        # Unit gain for matrices; vectors around one, so that scales, decays and sinks are neither zero nor extreme.
        gain = 1 / math.sqrt(parameter.shape[-1]) if parameter.ndim >= 2 else 0.1
        noise = torch.randn(parameter.shape, generator=generator) * gain
        parameter.data = noise if parameter.ndim >= 2 else noise + 1
    for child in twin.modules():
        for hooks in (child._forward_hooks, child._forward_pre_hooks, child._backward_hooks):
            hooks.clear()
        if scale_only_norms and is_norm(child) and _takes_one_argument(child):
            child.forward = _scale_only(child)
        if hasattr(child, "_hf_hook"):  # of accelerate, which hides the class's method behind an attribute
            vars(child).pop("forward", None)
    return twin.eval()


def _takes_one_argument(norm: nn.Module) -> bool:
    """Say whether a norm needs one argument; one of queries and keys together is left as it is."""
    parameters = inspect.signature(norm.forward).parameters.values()
    return sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters) == 1


def _scale_only(norm: nn.Module) -> Callable[..., Tensor]:
    def forward(x: Tensor, *gates: Any, **kwargs: Any) -> Tensor:
        for name, parameter in norm.named_parameters():
            x = x + parameter if name.endswith("bias") else x * parameter
        for gate in (*gates, *kwargs.values()):
            if isinstance(gate, Tensor):
                x = x * gate
        return x

    return forward


def random_call(call: Call) -> Call:
    """Return the call with random hidden states; its tensors are detached copies on the CPU, float32 where floating."""
    generator = torch.Generator().manual_seed(SEED)

    def fresh(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.detach().to("cpu")
        if not value.is_floating_point():
            return value.clone()
        if value.ndim == 3:  # hidden states; masks and tables of positions have other ranks, or may be anything
            return torch.randn(value.shape, generator=generator)
        return value.float().clone()

    args, kwargs = call
    # A cache would hold the tokens of an earlier run.
    kwargs = {name: None if "past_key_value" in name or name == "cache" else value for name, value in kwargs.items()}
    args, kwargs = tree_map(fresh, (args, kwargs))
    return args, kwargs


@dataclass
class ProbingRun:
    """The record of one run of a probing copy.

    `inputs`, `outputs` and `calls` hold the first floating-point input, the first output and the arguments of every module
    that owns parameters, by path, at its first call; `attended` and `num_heads` what `AttentionWatcher` gave for every
    softmax over tokens; `num_queries` the queries of the first, and `before` the modules that had run by then.
    """

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)
    attended: list[Tensor] = field(default_factory=list)
    num_heads: list[tuple[int, ...]] = field(default_factory=list)
    num_queries: int = 0
    before: list[str] = field(default_factory=list)


def probing_run(
    twin: nn.Module, call: Call, detach_weights: bool = False, only_projection: str | None = None
) -> ProbingRun:
    """Run a probing copy, with gradients, and return the record.

    With `detach_weights` no gradient passes through attention weights; with `only_projection`, the path of a projection,
    none passes through the inputs of other projections.
    """
    run = ProbingRun()

    def on_attention(out: Tensor, num_heads: tuple[int, ...], num_queries: int) -> None:
        if not run.attended:
            run.num_queries, run.before = num_queries, list(run.outputs)
        run.attended.append(out)
        run.num_heads.append(num_heads)

    def record(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            given, out = next(float_arguments((args, kwargs)), None), first_tensor(output)
            if given is not None and out is not None and path not in run.outputs:
                run.inputs[path], run.outputs[path], run.calls[path] = given, out, (args, kwargs)

        return hook

    owners = {path: m for path, m in twin.named_modules() if path and any(True for _ in m.parameters(recurse=False))}
    hooks = [module.register_forward_hook(record(path), with_kwargs=True) for path, module in owners.items()]
    if only_projection is not None:
        others = [module for path, module in owners.items() if path != only_projection and is_projection(module)]
        hooks += [module.register_forward_pre_hook(_detach, with_kwargs=True) for module in others]
    try:
        with torch.enable_grad(), AttentionWatcher(on_attention, detach_weights):
            twin(*call[0], **call[1])
    finally:
        for hook in hooks:
            hook.remove()
    return run


def _detach(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, (args, kwargs))  # type: ignore[no-any-return]


def random_sum(tensor: Tensor) -> Tensor:
    """Return the sum of the elements with random weights, so that the gradients of two elements do not cancel."""
    return (tensor * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(SEED))).sum()


def depends(end: Tensor, start: Tensor) -> bool:
    """Say whether the gradient of `end` reaches `start`."""
    if not (start.requires_grad and end.requires_grad):
        return False
    return torch.autograd.grad(end.sum(), start, retain_graph=True, allow_unused=True)[0] is not None
