"""Running a model of any class on token ids, and taking the logits out of what it returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from devinterp.errors import InvalidInputError
from devinterp.models.kept_attributes import attributes_kept


def accepted_parameters(model: nn.Module, *names: str) -> list[str]:
    """Return those of `names` that are parameters of ``model.forward``; what goes into ``**kwargs`` does not count."""
    parameters = inspect.signature(model.forward).parameters
    return [name for name in names if name in parameters]


def accepts_any_keyword(model: nn.Module) -> bool:
    """Say whether ``model.forward`` takes ``**kwargs``."""
    kinds = (parameter.kind for parameter in inspect.signature(model.forward).parameters.values())
    return inspect.Parameter.VAR_KEYWORD in kinds


def accepts(model: nn.Module, name: str) -> bool:
    """Say whether ``model.forward`` takes a keyword of this name, by itself or among any others."""
    return bool(accepted_parameters(model, name)) or accepts_any_keyword(model)


def logits_of(output: Any, model: nn.Module) -> Tensor:
    """Return the logits in what a model returned: a tensor, an object or mapping with ``logits``, a tuple led by them.

    Raises
    ------
    InvalidInputError
        `output` holds no tensor of three dimensions (batch, token, vocabulary).
    """
    logits = output
    if isinstance(output, Mapping):
        logits = output.get("logits")
    elif isinstance(output, tuple) and not hasattr(output, "logits"):
        logits = output[0] if output else None
    elif not isinstance(output, Tensor):
        logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim != 3:
        got = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(output).__name__
        raise InvalidInputError(
            f"{type(model).__name__} must return logits of shape (batch, token, vocabulary), or an object with such "
            f"`.logits`; got {got}. Pass `loss_fn`, or write a model adapter."
        )
    return logits


def device_of(model: nn.Module) -> torch.device:
    """Return the device of the model's first parameter; the CPU for a model without any."""
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


def find_embedding(model: nn.Module, logits: Callable[[Tensor], Tensor]) -> str | None:
    """Return the name of the `torch.nn.Embedding` that looks up the token ids when ``logits(input_ids)`` runs `model`.

    It is None if no embedding sees the ids, or the model cannot be run on two tokens.
    """
    if device_of(model).type == "meta":
        return None
    # Ones, because two tokens are at positions 0 and 1, and of segment 0.
    ids = torch.ones(1, 2, dtype=torch.long, device=device_of(model))
    inputs: dict[str, Any] = {}

    def record(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        return lambda module, args, output: inputs.update({name: args[0] if args else None})

    embeddings = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Embedding)]
    hooks = [module.register_forward_hook(record(name)) for name, module in embeddings]
    try:
        with torch.no_grad(), attributes_kept(model), evaluating(model):
            logits(ids)
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError):
        # Some models need more than two tokens; without the size of the vocabulary, only a check of the ids is lost.
        return None
    finally:
        for hook in hooks:
            hook.remove()
    return next((name for name, given in inputs.items() if given is not None and torch.equal(given, ids)), None)
