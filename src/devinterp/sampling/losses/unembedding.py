"""The end of a language model, from last hidden states to logits, detected by running it.

Most models end in ``logits = cap(scale * (hidden @ weight.T + bias))``. Where that holds, losses can be computed from the
hidden states in row chunks, without ever holding all logits (`devinterp.sampling.losses.chunked_cross_entropy`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

#: Runs a model on token ids, ``(batch, token)``, and returns its logits.
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Unembedding:
    """How a model turns hidden states into logits.

    Parameters
    ----------
    module : torch.nn.Linear
        The unembedding.
    scale : float
        What its output is multiplied by.
    cap : float or None
        ``logits = cap * tanh(scale * output / cap)``; None for no cap.
    """

    module: nn.Linear
    scale: float = 1.0
    cap: float | None = None


class NoUnembedding(Exception):  # noqa: N818  # an answer, not an error
    """Why a model's logits are not a scaled and capped linear map of hidden states."""


def find_unembedding(model: nn.Module, run: Run, input_ids: Tensor) -> Unembedding:
    """Return how a model turns its last hidden states into logits, detected by running it on a few tokens.

    The unembedding is the last linear module with as many outputs as there are logits; what happens to its output is read
    off by putting known values in its place.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    run : callable
        From ``input_ids`` to logits.
    input_ids : Tensor
        A few tokens, ``(batch, token)``.

    Raises
    ------
    NoUnembedding
        If the model does not end in an unembedding, at most scaled and capped.
    """
    outputs: dict[str, Tensor] = {}

    def record(name: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, output: outputs.update({name: output})

    linear = {name: m for name, m in model.named_modules() if type(m) is nn.Linear}
    hooks = [module.register_forward_hook(record(name)) for name, module in linear.items()]
    try:
        with torch.no_grad():
            logits = run(input_ids)
    finally:
        for hook in hooks:
            hook.remove()
    ends = [name for name, output in outputs.items() if isinstance(output, Tensor) and output.shape == logits.shape]
    if not ends:
        raise NoUnembedding("no linear module gives the logits")
    module = linear[ends[-1]]
    # From far below any cap, where only the scale shows, to far above it, also where the scale is small; float16 holds it.
    half = torch.logspace(-3, 4.5, logits.numel() // 2 + 1, device=logits.device)
    probe = torch.cat([-half, half])[: logits.numel()].view(logits.shape)
    with _showing_weights(model), replaced_forward(module, lambda hidden: probe.to(hidden.dtype)):
        after = run(input_ids)
    if after.requires_grad:
        raise NoUnembedding("weights act on what its unembedding gives")
    return Unembedding(module, *_scale_and_cap(probe.to(logits.dtype).float(), after.float()))


@contextmanager
def _showing_weights(model: nn.Module) -> Iterator[None]:
    """Let everything that depends on any weight require gradients, from the first call of a part of the model on."""

    def begin(*_: object) -> None:
        torch.set_grad_enabled(True)

    flags = [(p, p.requires_grad) for p in model.parameters()]
    hooks = [part.register_forward_pre_hook(begin) for part in model.modules() if part is not model]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(parameter.is_floating_point())
        with torch.no_grad():  # until then the model is entered as for any evaluation, and afterwards all is as it was
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _scale_and_cap(given: Tensor, seen: Tensor) -> tuple[float, float | None]:
    """Return the scale and cap that turn `given` into `seen`."""
    tolerance = 1e-5 if given.dtype == torch.float32 else 1e-2
    if torch.equal(given, seen):
        return 1.0, None
    smallest = given.abs().flatten().argmin()
    scale = float(seen.flatten()[smallest] / given.flatten()[smallest])
    scale = 1.0 if abs(scale - 1) < tolerance else scale
    if torch.allclose(scale * given, seen, rtol=tolerance, atol=tolerance):
        return scale, None
    # tanh is 1 to rounding far out, where nothing but the cap is left.
    cap = float(seen.abs().max())
    loose = max(1e-3, tolerance)
    if cap > 0 and torch.allclose(cap * torch.tanh(scale * given / cap), seen, rtol=loose, atol=loose * cap):
        return scale, cap
    raise NoUnembedding("its logits are neither the unembedding's output nor that scaled and capped")


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let a module do something else while the block runs."""
    before = module.__dict__.get("forward")  # hooks of the accelerate package are instance attributes too
    module.__dict__["forward"] = forward  # an instance attribute hides the class's method
    try:
        yield
    finally:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.__dict__["forward"] = before


def last_hidden(unembedding: Unembedding, run: Callable[[], Any]) -> Tensor:
    """Return what a model hands to its unembedding, without computing logits.

    Parameters
    ----------
    unembedding : Unembedding
        Of the model.
    run : callable
        Runs the model; what it returns is meaningless and discarded.

    Returns
    -------
    Tensor
        ``(batch, token, width)``, differentiable.
    """
    caught: list[Tensor] = []

    def catch(hidden: Tensor) -> Tensor:
        caught.append(hidden)
        return hidden[..., :1]

    with replaced_forward(unembedding.module, catch):
        run()
    return caught[-1]
