"""Running a model on token ids and reading its answer, whatever its class."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from devinterp.errors import InvalidInputError


def accepts(model: nn.Module, *names: str) -> list[str]:
    """Return those of `names` that ``model.forward`` takes as parameters of their own."""
    parameters = inspect.signature(model.forward).parameters
    return [name for name in names if name in parameters]


def accepts_any(model: nn.Module) -> bool:
    """Say whether ``model.forward`` passes further keyword arguments on."""
    kinds = (parameter.kind for parameter in inspect.signature(model.forward).parameters.values())
    return inspect.Parameter.VAR_KEYWORD in kinds


def logits_of(output: Any, model: nn.Module) -> Tensor:
    """Return the logits in what a model returned: a tensor, an object or mapping with ``logits``, a tuple led by them.

    Raises
    ------
    InvalidInputError
        There is no tensor of three dimensions (batch, token, vocabulary) to be found.
    """
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits")
    elif isinstance(output, tuple) and not hasattr(output, "logits"):
        found = output[0] if output else None
    elif not isinstance(output, Tensor):
        found = getattr(output, "logits", None)
    if not isinstance(found, Tensor) or found.ndim != 3:
        got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(output).__name__
        raise InvalidInputError(
            f"{type(model).__name__} must return logits of shape (batch, token, vocabulary), or an object with such "
            f"`.logits`; got {got}. Pass `loss_fn`, or write a model adapter."
        )
    return found


def device_of(model: nn.Module) -> torch.device:
    """Return the device where the model takes its inputs."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module of `model` into evaluation mode, and each back into its own mode afterwards."""
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()
        yield
    finally:
        for module in training:
            module.training = True


def _run_two_tokens(
    model: nn.Module, logits: Callable[[Tensor], Tensor], kind: type[nn.Module]
) -> tuple[Tensor, Tensor, dict[str, tuple[Any, Any]]] | None:
    """Return ids, logits, and first input and output of every module of `kind`; None where two tokens cannot be run."""
    if device_of(model).type == "meta":
        return None
    seen: dict[str, tuple[Any, Any]] = {}

    def record(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        return lambda module, args, output: seen.update({name: (args[0] if args else None, output)})

    found = {name: module for name, module in model.named_modules() if isinstance(module, kind)}
    hooks = [module.register_forward_hook(record(name)) for name, module in found.items()]
    # Ones are neither positions nor segments, and a padding token's embedding, often id 0, is zero.
    ids = torch.ones(1, 2, dtype=torch.long, device=device_of(model))
    try:
        with torch.no_grad(), evaluating(model):
            return ids, logits(ids), seen
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        # Two tokens are not enough for every model: what is not known only costs speed, or a check.
        return None
    finally:
        for hook in hooks:
            hook.remove()


def find_unembedding(model: nn.Module, logits: Callable[[Tensor], Tensor]) -> str | None:
    """Return the name of the linear module whose output *is* the logits, found by running two tokens.

    A model that scales or caps what its unembedding returns has none in this sense.
    """
    run = _run_two_tokens(model, logits, nn.Linear)
    if run is None:
        return None
    ids, found, seen = run
    same = [name for name, (_, out) in seen.items() if out.shape == found.shape and torch.equal(out, found)]
    if not same:
        return None
    # Capping small logits hardly changes them: put large ones in their place and see whether they come out unchanged.
    large = torch.linspace(-1e3, 1e3, found.numel(), device=found.device).to(found.dtype).view_as(found)
    hook = model.get_submodule(same[-1]).register_forward_hook(lambda module, args, output: large)
    try:
        with torch.no_grad(), evaluating(model):
            return same[-1] if torch.equal(logits(ids), large) else None
    finally:
        hook.remove()


def find_embedding(model: nn.Module, logits: Callable[[Tensor], Tensor]) -> str | None:
    """Return the name of the embedding that looks up the token ids, found by running two tokens."""
    run = _run_two_tokens(model, logits, nn.Embedding)
    if run is None:
        return None
    return next((name for name, (ids, _) in run[2].items() if ids is not None and torch.equal(ids, run[0])), None)
