"""Under a weight restriction, everything before the first moving layer is constant: compute it once for each row of data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from devinterp.sampling.head import replaced_forward

#: Activations that are kept, in bytes; rows beyond it are computed anew every time.
BUDGET = 512 * 2**20


@dataclass(frozen=True)
class Prefix:
    """The layers that run before the first moving one.

    Parameters
    ----------
    layers : tuple of torch.nn.Module
        In the order they run; what the last of them returns is constant.
    returns_tuple : bool
        Whether they return ``(hidden, None, ...)`` rather than hidden states.
    tuple_length : int
        Of that tuple.
    """

    layers: tuple[nn.Module, ...]
    returns_tuple: bool = False
    tuple_length: int = 1

    def wrap(self, hidden: Tensor) -> Any:
        """Return hidden states as a layer would."""
        return (hidden, *[None] * (self.tuple_length - 1)) if self.returns_tuple else hidden


def find_prefix(model: nn.Module, moving: Mapping[str, Any], run: Callable[[], object]) -> Prefix | None:
    """Return the layers before the first moving one, found by watching the model run.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    moving : mapping
        Names of the parameters that move.
    run : callable
        Runs the model on a little data.

    Returns
    -------
    Prefix or None
        None where nothing can be reused: a moving weight is used before or in the first layer, the model has no sequence of
        layers, or its layers return more than hidden states.
    """
    if any(module.training for module in model.modules()):
        return None  # dropout and batch statistics make no prefix constant
    parameters = dict(model.named_parameters(remove_duplicate=False))
    moved = {id(parameters[name]) for name in moving}
    called, outputs = _watch(model, run)
    best: tuple[nn.Module, ...] = ()
    for stack in model.modules():
        if not isinstance(stack, nn.ModuleList | nn.Sequential) or len(stack) < 2:
            continue
        layers = tuple(stack)
        if not _run_once_in_order(layers, called):
            continue
        constant = _num_constant(layers, called, moved)
        if constant > len(best):
            best = layers[:constant]
    if not best:
        return None
    return _as_prefix(best, [outputs[id(layer)] for layer in best])


def _watch(model: nn.Module, run: Callable[[], object]) -> tuple[list[nn.Module], dict[int, Any]]:
    """Return all modules in the order in which they are entered, and what each returned last."""
    called: list[nn.Module] = []
    outputs: dict[int, Any] = {}
    hooks = []
    for module in model.modules():
        hooks.append(module.register_forward_pre_hook(lambda m, _: called.append(m)))
        hooks.append(module.register_forward_hook(lambda m, _, output: outputs.update({id(m): output})))
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return called, outputs


def _run_once_in_order(layers: tuple[nn.Module, ...], called: list[nn.Module]) -> bool:
    members = {id(layer) for layer in layers}
    return [id(m) for m in called if id(m) in members] == [id(layer) for layer in layers]


def _num_constant(layers: tuple[nn.Module, ...], called: list[nn.Module], moved: set[int]) -> int:
    """Return how many of the first layers run before any module that owns a moving weight is entered."""
    ids = [id(m) for m in called]
    first = next((n for n, m in enumerate(called) if any(id(p) in moved for p in m._parameters.values())), len(called))
    # A layer is entered before its parts, so it is constant if the next one is entered no later than the first mover.
    starts = [ids.index(id(layer)) for layer in layers]
    return sum(1 for after in starts[1:] if after <= first)


def _as_prefix(layers: tuple[nn.Module, ...], outputs: list[Any]) -> Prefix | None:
    if all(isinstance(output, Tensor) for output in outputs):
        return Prefix(layers)
    if all(isinstance(o, tuple) and isinstance(o[0], Tensor) and all(x is None for x in o[1:]) for o in outputs):
        return Prefix(layers, returns_tuple=True, tuple_length=len(outputs[-1]))
    return None


@dataclass
class PrefixCache:
    """What the prefix gives for each row of data, filled as rows are met.

    Parameters
    ----------
    prefix : Prefix
        Of the model under the present restriction.
    budget : int
        Bytes to keep at most.
    """

    prefix: Prefix
    budget: int = BUDGET
    _kept: dict[str, tuple[Tensor, np.ndarray] | None] = field(default_factory=dict)

    @contextmanager
    def rows(self, key: str, where: np.ndarray, num_rows: int) -> Iterator[None]:
        """Let a forward pass inside the block start after the prefix, or remember what the prefix gives.

        Parameters
        ----------
        key : str
            Which data set the rows are of.
        where : numpy.ndarray
            Which rows make the batch, ``(batch,)``.
        num_rows : int
            Rows of that data set.
        """
        kept = self._kept.get(key, ())
        if kept is None:  # does not fit
            yield
        elif kept and kept[1][where].all():
            hidden = self.prefix.wrap(kept[0][torch.from_numpy(where).to(kept[0].device)])
            with ExitStack() as stack:
                for layer in self.prefix.layers:
                    stack.enter_context(replaced_forward(layer, lambda *_, **__: hidden))
                yield
        else:
            with self._remembering(key, where, num_rows):
                yield

    @contextmanager
    def _remembering(self, key: str, where: np.ndarray, num_rows: int) -> Iterator[None]:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            hidden = output[0] if isinstance(output, tuple) else output
            if key not in self._kept:
                self._kept[key] = self._allocate(hidden, num_rows)
            kept = self._kept[key]
            if kept is not None and len(hidden) == len(where):
                kept[0][torch.from_numpy(where).to(hidden.device)] = hidden.detach()
                kept[1][where] = True

        hook = self.prefix.layers[-1].register_forward_hook(keep)
        try:
            yield
        finally:
            hook.remove()

    def _allocate(self, hidden: Tensor, num_rows: int) -> tuple[Tensor, np.ndarray] | None:
        shape = (num_rows, *hidden.shape[1:])
        used = sum(kept[0].nbytes for kept in self._kept.values() if kept is not None)
        if hidden.ndim < 2 or used + hidden.element_size() * int(np.prod(shape)) > self.budget:
            return None
        return hidden.new_empty(shape), np.zeros(num_rows, bool)
