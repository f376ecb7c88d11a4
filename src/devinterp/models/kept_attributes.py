"""The attributes of a model's modules, put back after it was run.

Modules may keep activations, or masks that they make for the shape of their first call. What a run leaves in them would be
tensors of several chains, or of a probe on two tokens, and would hold its graph.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

#: What `nn.Module` itself keeps of an instance and nobody changes in ``forward``: hooks.
_HOOKS = set(vars(nn.Module())) - {"training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"}
_MAX_DEPTH = 4
_CONTAINERS = (list, dict, set, deque)


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Put the attributes of a model's modules back, and the entries of lists, dicts and sets among them, whatever happens."""
    attributes = _Attributes(model)
    try:
        yield
    finally:
        attributes.restore()


class _Attributes:
    """The attributes of a model's modules as they were."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = [
            (module, {k: v for k, v in vars(module).items() if k not in _HOOKS}) for module in model.modules()
        ]
        self._containers: list[tuple[Any, Any]] = []
        seen: set[int] = set()
        for _, attributes in self._modules:
            self._keep(attributes.values(), seen, _MAX_DEPTH)

    def _keep(self, values: Iterable[Any], seen: set[int], depth: int) -> None:
        for value in values:
            if not isinstance(value, _CONTAINERS) or id(value) in seen:
                continue
            seen.add(id(value))
            self._containers.append((value, list(_entries(value))))
            if value and depth > 1:
                self._keep(value.values() if isinstance(value, dict) else value, seen, depth - 1)

    def restore(self) -> None:
        """Put everything back as it was."""
        for module, attributes in self._modules:
            now = vars(module)
            for name in [name for name in now if name not in _HOOKS and name not in attributes]:
                del now[name]
            now.update(attributes)
        for container, entries in self._containers:
            if len(container) == len(entries) and all(map(_is_same, _entries(container), entries)):
                continue
            container.clear()
            container.extend(entries) if isinstance(container, list | deque) else container.update(entries)


def _entries(container: Any) -> Iterable[Any]:
    return container.items() if isinstance(container, dict) else container


def _is_same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    pair = isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b) == 2
    return pair and a[0] is b[0] and a[1] is b[1]
