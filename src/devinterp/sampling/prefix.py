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
    seen = _watch(model, run)
    movers = [seen.entered[id(m)] for m in seen.called if any(id(p) in moved for p in m._parameters.values())]
    first = min(movers, default=seen.time)
    best: tuple[nn.Module, ...] = ()
    most = 0
    for stack in model.modules():
        if not isinstance(stack, nn.ModuleList | nn.Sequential) or len(stack) < 2:
            continue
        layers = tuple(stack)
        if not _run_once_in_order(layers, seen.called):
            continue
        constant = [layer for layer in layers if seen.left[id(layer)] < first]
        # How much runs in them: a stack inside of one layer may have more members than the stack of the layers.
        size = sum(seen.left[id(layer)] - seen.entered[id(layer)] for layer in constant)
        if size > most:
            best, most = tuple(constant), size
    if not best:
        return None
    return _as_prefix(best, [seen.outputs[id(layer)] for layer in best])


@dataclass
class _Seen:
    """What was seen of a model's modules while it ran: when each was first entered and last left, and what it returned."""

    called: list[nn.Module] = field(default_factory=list)
    entered: dict[int, int] = field(default_factory=dict)
    left: dict[int, int] = field(default_factory=dict)
    outputs: dict[int, Any] = field(default_factory=dict)
    time: int = 0

    def enter(self, module: nn.Module, _: Any) -> None:
        self.called.append(module)
        self.entered.setdefault(id(module), self.time)
        self.time += 1

    def leave(self, module: nn.Module, _: Any, output: Any) -> None:
        self.left[id(module)] = self.time
        self.outputs[id(module)] = output
        self.time += 1


def _watch(model: nn.Module, run: Callable[[], object]) -> _Seen:
    seen = _Seen()
    hooks = []
    for module in model.modules():
        hooks.append(module.register_forward_pre_hook(seen.enter))
        hooks.append(module.register_forward_hook(seen.leave))
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _run_once_in_order(layers: tuple[nn.Module, ...], called: list[nn.Module]) -> bool:
    members = {id(layer) for layer in layers}
    return [id(m) for m in called if id(m) in members] == [id(layer) for layer in layers]


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
    gave_up : str
        Why nothing can be kept, once that has shown.
    """

    prefix: Prefix
    budget: int = BUDGET
    gave_up: str = ""
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
        if kept is None or self.gave_up:
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
            if hidden.ndim < 2 or len(hidden) != len(where):
                self.gave_up = "layers do not return a row of activations for each sequence"
                return
            if key not in self._kept:
                self._kept[key] = self._allocate(hidden, num_rows)
            kept = self._kept[key]
            if kept is not None:
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
        if used + hidden.element_size() * int(np.prod(shape)) > self.budget:
            return None
        return hidden.new_empty(shape), np.zeros(num_rows, bool)
