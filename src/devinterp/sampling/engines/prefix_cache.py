"""Under a weight restriction, the layers before the first sampled parameter are constant: compute them once for each row."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from devinterp.sampling.data.placement import copied_to
from devinterp.sampling.losses.unembedding import replaced_forward

#: Bytes of activations that are cached; data sets beyond it are computed anew every time.
BUDGET = 512 * 2**20


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
    first = min(users, default=seen.time)
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
    return _prefixes(best, seen.outputs[id(best[-1])]) if best else []


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
    _kept: dict[str, tuple[list[Tensor], np.ndarray] | None] = field(default_factory=dict)

    def holds(self, key: str) -> bool:
        """Return whether rows of a data set are kept; not before any were met, nor where they take too much memory."""
        return self._kept.get(key) is not None

    @contextmanager
    def rows(self, key: str, index: np.ndarray, num_rows: int) -> Iterator[None]:
        """Let a forward pass inside the block start after the prefix, or remember what the prefix gives.

        Parameters
        ----------
        key : str
            Which data set the rows are of.
        index : numpy.ndarray
            Which of them make the batch, ``(batch,)``.
        num_rows : int
            Rows of that data set.
        """
        kept = self._kept.get(key, ())
        if kept is None or self.gave_up:
            yield
        elif kept and kept[1][index].all():
            output = self.prefix.wrap([all_rows[_index(index, all_rows)] for all_rows in kept[0]])
            with ExitStack() as stack:
                for layer in self.prefix.layers:
                    stack.enter_context(replaced_forward(layer, lambda *_, **__: output))
                yield
        else:
            with self._remembering(key, index, num_rows):
                yield

    @contextmanager
    def _remembering(self, key: str, index: np.ndarray, num_rows: int) -> Iterator[None]:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            tensors = self.prefix.kept(output)
            if any(tensor.ndim < 2 or len(tensor) != len(index) for tensor in tensors):
                self.gave_up = "layers do not return a row of activations for each sequence"
                return
            if key not in self._kept:
                self._kept[key] = self._allocate(tensors, num_rows)
            kept = self._kept[key]
            if kept is not None:
                for all_rows, tensor in zip(kept[0], tensors, strict=True):
                    all_rows[_index(index, all_rows)] = tensor.detach()
                kept[1][index] = True

        hook = self.prefix.layers[-1].register_forward_hook(keep)
        try:
            yield
        finally:
            hook.remove()

    def _allocate(self, tensors: Sequence[Tensor], num_rows: int) -> tuple[list[Tensor], np.ndarray] | None:
        used = sum(tensor.nbytes for kept in self._kept.values() if kept is not None for tensor in kept[0])
        if used + sum(num_rows * tensor[0].nbytes for tensor in tensors) > self.budget:
            return None
        return [tensor.new_empty((num_rows, *tensor.shape[1:])) for tensor in tensors], np.zeros(num_rows, bool)


def _index(rows: np.ndarray, like: Tensor) -> Tensor:
    return copied_to(torch.from_numpy(rows), like.device)


class SharedPrefix:
    """The activations that restrictions sampled one after the other share, as long as the same layers are constant.

    Holds at most one cache: that of the restriction before.
    """

    def __init__(self) -> None:
        self._cache: PrefixCache | None = None

    def of(self, prefix: Prefix) -> PrefixCache:
        """Return the cache of a prefix: the one that is held if it is of the same layers, else an empty one."""
        if self._cache is None or self._cache.prefix != prefix:
            self._cache = PrefixCache(prefix)
        return self._cache

    def clear(self) -> None:
        """Hold nothing."""
        self._cache = None
