"""Running a model so that its attention can be watched: on one row, with attention in plain torch operations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

_INTERNAL = "_attn_implementation_internal"
_WATCHABLE = (None, "eager", "sdpa")


@contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """Let a HuggingFace model attend in plain torch operations inside, whichever kernel it has been given.

    A kernel of its own (FlashAttention, flex attention, one that was registered) shows no softmax that could be watched.
    """
    changed: list[tuple[Any, Any]] = []
    seen: set[int] = set()
    configs = [config for module in model.modules() if (config := getattr(module, "config", None)) is not None]
    try:
        while configs:
            config = configs.pop()
            if id(config) in seen or not hasattr(config, "__dict__"):
                continue
            seen.add(id(config))
            configs += [part for part in vars(config).values() if hasattr(part, "_attn_implementation")]
            if vars(config).get(_INTERNAL) not in _WATCHABLE:
                changed.append((config, vars(config)[_INTERNAL]))
                vars(config)[_INTERNAL] = "eager"  # not by its property, which would set it in configs inside of it too
        yield
    finally:
        for config, implementation in changed:
            vars(config)[_INTERNAL] = implementation


def first_row(example_inputs: Any, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call on the first row of inputs.

    Parameters
    ----------
    example_inputs : tensor, tuple or mapping
        One argument, positional arguments, or keyword arguments; tensors with the rows along their first dimension.
    device : torch.device
        Where the model is.
    """
    if hasattr(example_inputs, "keys") and not isinstance(example_inputs, Tensor):
        args, kwargs = (), {str(key): example_inputs[key] for key in example_inputs.keys()}  # noqa: SIM118
    else:
        args = tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
        kwargs = {}
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim]
    num_rows = len(tensors[0]) if tensors else 0

    def one(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.detach().to(device)
        return value[:1] if value.ndim and len(value) == num_rows else value

    return tree_map(one, (args, kwargs))  # type: ignore[no-any-return]


def leading_output(output: Any) -> Tensor:
    """Return the tensor of numbers that comes first in what a model returned: its logits, scores or last hidden states.

    Raises
    ------
    ValueError
        There is none.
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    for part in parts:
        if isinstance(part, Tensor) and part.is_floating_point() and part.ndim:
            return part
    raise ValueError(f"the model returned {type(output).__name__} without a tensor of numbers")
