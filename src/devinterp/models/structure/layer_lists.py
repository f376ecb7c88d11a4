"""The stacks of layers of a model: which lists of modules they are, and their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from devinterp.models.structure.attention import AttentionFinder
from devinterp.models.structure.trace import Trace

LayerPaths = tuple[str, ...]


def find_stacks(
    modules: Mapping[str, nn.Module], trace: Trace, attentions: Iterable[str], finder: AttentionFinder
) -> dict[str, list[LayerPaths]]:
    """Return the layers of each stack as paths of modules, first the stack that ran last, which predicts tokens.

    A layer is an element of an outermost list of modules that mixes tokens; or, if the elements are attentions alone,
    the elements of all lists of that length beside it (XLM keeps lists of parts).
    """
    attentions = set(attentions)
    stacks: dict[str, list[LayerPaths]] = {}
    for path, module in modules.items():
        if not isinstance(module, nn.ModuleList | nn.Sequential) or finder.element(path) is not None:
            continue
        elements = [f"{path}.{name}" for name, _ in module.named_children()]
        ran = [element for element in elements if element in trace.calls]
        if not ran:
            continue
        if not _holds(path, attentions) and (isinstance(module, nn.Sequential) or not finder.mixes_tokens(ran[0])):
            continue
        stacks[path] = [(element,) for element in elements]
        if set(elements) & attentions:
            others = [p for p in _lists_beside(modules, path, len(elements)) if not _holds(p, attentions)]
            stacks[path] = [tuple(f"{name}.{i}" for name in (path, *others)) for i in range(len(elements))]
    return _named(stacks, trace)


def _holds(path: str, attentions: Iterable[str]) -> bool:
    return any(attention.startswith(f"{path}.") for attention in attentions)


def _lists_beside(modules: Mapping[str, nn.Module], path: str, length: int) -> list[str]:
    """Return the paths of the other lists of modules of this length in the module that holds the list at `path`."""
    parent = path.rpartition(".")[0]
    siblings = [(f"{parent}.{name}" if parent else name, m) for name, m in modules[parent].named_children()]
    lists = [(name, module) for name, module in siblings if name != path and isinstance(module, nn.ModuleList)]
    return [name for name, module in lists if len(list(module.children())) == length]


def _named(stacks: Mapping[str, list[LayerPaths]], trace: Trace) -> dict[str, list[LayerPaths]]:
    order = {path: i for i, path in enumerate(trace.calls)}
    last_first = sorted(stacks, key=lambda path: -max(order.get(layer[0], -1) for layer in stacks[path]))
    named: dict[str, list[LayerPaths]] = {}
    for i, path in enumerate(last_first):
        above, _, last = path.rpartition(".")
        parent = above.rpartition(".")[2] or path
        if i and "att" in last:
            name = f"{parent}_{last}"  # a list of attentions beside the layers (BLT)
        else:
            name = "dec" if i == 0 else "enc" if "encoder" in path and "enc" not in named else parent
        named[name if name not in named else path.replace(".", "_")] = stacks[path]
    return named
