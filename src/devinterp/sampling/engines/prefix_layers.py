"""Find the layers that are constant under a weight restriction: those that run before the first sampled parameter."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

#: Structure of what a layer returns: the number of a cached tensor, None for what is dropped, ``(type, parts)`` of a tuple
#: or list.
Form: TypeAlias = Any


class _Opaque(Exception):  # noqa: N818  # an answer, not an error
    """A layer returns an object whose contents cannot be seen."""


@dataclass(frozen=True)
class Prefix:
    """The layers that run before the first sampled parameter is used.

    Parameters
    ----------
    layers : tuple of torch.nn.Module
        In the order they run; what the last of them returns is constant.
    form : Form
        Structure of that, and which of its tensors are cached.
    """

    layers: tuple[nn.Module, ...]
    form: Form = 0

    def kept(self, output: Any) -> list[Tensor]:
        """Return the tensors to keep of what the last layer has returned."""
        return [tensor for place, tensor in _pairs(self.form, output) if place is not None]

    def wrap(self, kept: Sequence[Tensor]) -> Any:
        """Return what the last layer would, from what was kept."""
        return _filled(self.form, kept)


def _form(output: Any, numbers: Iterator[int]) -> Form:
    """Return the form of an output whose first tensors are kept, as many as there are numbers."""
    if isinstance(output, Tensor):
        return next(numbers, None)
    if type(output) in (tuple, list):
        return type(output), tuple(_form(part, numbers) for part in output)
    if output is None:
        return None
    raise _Opaque


def _pairs(form: Form, output: Any) -> Iterator[tuple[int | None, Any]]:
    if isinstance(form, tuple):
        for part, value in zip(form[1], output, strict=True):
            yield from _pairs(part, value)
    else:
        yield form, output


def _filled(form: Form, kept: Sequence[Tensor]) -> Any:
    if isinstance(form, tuple):
        return form[0](_filled(part, kept) for part in form[1])
    return None if form is None else kept[form]


def find_prefixes(model: nn.Module, sampled: Mapping[str, Any], run: Callable[[], object]) -> list[Prefix]:
    """Return the layers before the first sampled parameter, by watching the model run.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    sampled : mapping
        Names of the sampled parameters.
    run : callable
        Runs the model on a little data.

    Returns
    -------
    list of Prefix
        To be tried in this order: keeping hidden states alone, then all that the last layer returns (attention weights, say,
        which are large and rarely read again). Empty where nothing can be reused: a sampled parameter is used before or in
        the first layer, the model has no sequence of layers, or these return other things than tensors.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    sampled_ids = {id(parameters[name]) for name in sampled}
    seen = _watch(model, run)
    users = [seen.entered[id(m)] for m in seen.called if any(id(p) in sampled_ids for p in m._parameters.values())]
    best = _longest(model, seen, min(users, default=seen.time))
    return _prefixes(best, seen.outputs[id(best[-1])]) if best else []


def layers_in_order(model: nn.Module, run: Callable[[], object]) -> tuple[nn.Module, ...]:
    """Return the layers of a model that run once, one after the other; empty where there is no such sequence.

    Parameters
    ----------
    model, run
        As for `find_prefixes`.
    """
    seen = _watch(model, run)
    return _longest(model, seen, seen.time)


def _longest(model: nn.Module, seen: _Seen, first: int) -> tuple[nn.Module, ...]:
    """Return the layers that have run before a time, of that sequence of layers in which most runs."""
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
    return best


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


def _prefixes(layers: tuple[nn.Module, ...], output: Any) -> list[Prefix]:
    try:
        forms = [_form(output, iter(range(1))), _form(output, itertools.count())]
    except _Opaque:
        return []
    return [Prefix(layers, form) for form in dict.fromkeys(forms)]
