"""The stacks of layers of a model: which lists of modules they are, and what they are called."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from devinterp.models.structure.attention import Attentions
from devinterp.models.structure.trace import Trace

Paths = list[tuple[str, ...]]


def find_stacks(
    modules: Mapping[str, nn.Module], seen: Trace, cores: Iterable[str], attentions: Attentions
) -> dict[str, Paths]:
    """Return the layers of each stack as paths of modules, the stack that ran last, which predicts, first.

    A layer is an element of an outermost list of modules that mixes tokens; or, where the elements are attentions alone,
    the elements of all lists of that length beside it (XLM keeps lists of parts).
    """
    cores = set(cores)
    found: dict[str, Paths] = {}
    for path, module in modules.items():
        if not isinstance(module, nn.ModuleList | nn.Sequential) or attentions.element(path) is not None:
            continue
        elements = [f"{path}.{name}" for name, _ in module.named_children()]
        if not any(_ran(element, seen) for element in elements):
            continue
        if not _holds(path, cores):
            first = next(element for element in elements if _ran(element, seen))
            if isinstance(module, nn.Sequential) or not attentions.mixes(first):
                continue
        found[path] = [(element,) for element in elements]
        if set(elements) & cores:
            beside = [p for p in _lists_beside(modules, path, len(elements)) if p == path or not _holds(p, cores)]
            found[path] = [tuple(f"{name}.{i}" for name in beside) for i in range(len(elements))]
    return _named(found, seen)


def _holds(path: str, cores: Iterable[str]) -> bool:
    return any(core.startswith(f"{path}.") for core in cores)


def _ran(path: str, seen: Trace) -> bool:
    return path in seen.calls


def _lists_beside(modules: Mapping[str, nn.Module], path: str, length: int) -> list[str]:
    parent = path.rpartition(".")[0]
    lists = [f"{parent}.{name}" if parent else name for name, _ in modules[parent].named_children()]
    others = [p for p in lists if p != path and isinstance(modules[p], nn.ModuleList) and _length(modules[p]) == length]
    return [path, *others]


def _length(module: nn.Module) -> int:
    return sum(1 for _ in module.named_children())


def _named(found: Mapping[str, Paths], seen: Trace) -> dict[str, Paths]:
    order = {path: i for i, path in enumerate(seen.calls)}
    ran = sorted(found, key=lambda path: -max(order.get(layer[0], -1) for layer in found[path]))
    names: dict[str, Paths] = {}
    for i, path in enumerate(ran):
        above, _, last = path.rpartition(".")
        parent = above.rpartition(".")[2] or path
        if i and "att" in last:
            name = f"{parent}_{last}"  # a list of attentions beside the layers (BLT)
        else:
            name = "dec" if i == 0 else "enc" if "encoder" in path and "enc" not in names else parent
        names[name if name not in names else path.replace(".", "_")] = found[path]
    return names
