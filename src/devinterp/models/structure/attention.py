"""The attentions of a model: which modules they are, and their heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from devinterp.models.structure.head_parts import Heads
from devinterp.models.structure.known_layouts import KNOWN_LAYOUTS
from devinterp.models.structure.probe_heads import probe_heads
from devinterp.models.structure.probing_run import probing_copy, random_call, random_sum
from devinterp.models.structure.trace import FAILURES, Call, Trace, first_tensor, float_arguments


@dataclass(frozen=True)
class ProbedAttention:
    """An attention module, and what probing it gave.

    Parameters
    ----------
    path : str
        Its path.
    heads : Heads or None
        Its heads, with parameter names relative to it, or None if they cannot be told apart.
    no_heads : str
        Why they cannot.
    """

    path: str
    heads: Heads | None
    no_heads: str = ""


class AttentionFinder:
    """Finds the attentions of one model; of modules that are built alike only the first is probed."""

    def __init__(self, model: nn.Module, trace: Trace) -> None:
        self.trace = trace
        self.modules = dict(model.named_modules())
        self._heads: dict[object, Heads | str | None] = {}
        self._mixing: dict[object, bool] = {}

    def find(self) -> dict[str, ProbedAttention]:
        """Return, for each softmax over tokens, the smallest module that holds it and the projection after it."""
        attentions: dict[str, ProbedAttention] = {}
        known = [path for path in self.trace.calls if type(self.modules[path]).__name__ in KNOWN_LAYOUTS]
        for path in (*self.trace.softmaxes, *known):
            attention = self._probe_upwards(path)
            if attention is not None:
                attentions.setdefault(attention.path, attention)
        # The heads of an indexer or compressor inside an attention are parts of that attention.
        return {
            path: attention
            for path, attention in attentions.items()
            if not any(path.startswith(f"{outer}.") for outer in attentions)
        }

    def element(self, path: str) -> str | None:
        """Return the path of the outermost element of a list of modules that `path` lies in."""
        parts = path.split(".")
        for i in range(1, len(parts)):
            if isinstance(self.modules[".".join(parts[:i])], nn.ModuleList | nn.Sequential):
                return ".".join(parts[: i + 1])
        return None

    def _probe_upwards(self, softmax: str) -> ProbedAttention | None:
        """Probe the module that ran a softmax, then those around it, until one has heads."""
        while softmax and not any(True for _ in self.modules[softmax].parameters()):
            softmax = softmax.rpartition(".")[0]  # an nn.Softmax
        path, reason, element = softmax, "", self.element(softmax)
        while path in self.trace.calls:
            kind = type(self.modules[path]).__name__
            if kind in KNOWN_LAYOUTS:
                return ProbedAttention(path, KNOWN_LAYOUTS[kind](self.modules[path]))
            if path == softmax and not self.mixes_tokens(path):
                return None
            if path == element and path != softmax:
                break
            heads = self._probe(path)
            if isinstance(heads, Heads):
                return ProbedAttention(path, heads)
            reason = heads or reason
            path = path.rpartition(".")[0]
        return ProbedAttention(softmax, None, reason or "no projection in its module reads what its attention returns")

    def _layout(self, path: str) -> object:
        """Return what modules that are built alike have in common; the index of the layer is no part of it."""
        module = self.modules[path]
        settings = [
            sorted(
                (name, value)
                for name, value in vars(child).items()
                if isinstance(value, int | str) and "layer" not in name and not name.startswith("_")
            )
            for child in module.modules()
        ]
        kinds = [type(child).__qualname__ for child in module.modules()]
        return repr((kinds, [(name, p.shape) for name, p in module.named_parameters()], settings))

    def _probe(self, path: str) -> Heads | str | None:
        """Return the heads of a module, or why it has none."""
        layout = self._layout(path)
        if layout not in self._heads:
            try:
                self._heads[layout] = probe_heads(self.modules[path], self.trace.calls[path])
            except FAILURES as error:
                self._heads[layout] = f"{type(error).__name__}: {error}"
        return self._heads[layout]

    def mixes_tokens(self, path: str) -> bool:
        """Say whether the module at `path`, if it ran, mixes tokens."""
        if path not in self.trace.calls:
            return False
        layout = self._layout(path)
        if layout not in self._mixing:
            try:
                self._mixing[layout] = _mixes_tokens(self.modules[path], self.trace.calls[path])
            except FAILURES:
                self._mixing[layout] = False
        return self._mixing[layout]


def _mixes_tokens(module: nn.Module, call: Call) -> bool:
    """Say whether what a module returns for the last token depends on other tokens, or on another sequence."""
    twin = probing_copy(module, scale_only_norms=False)
    args, kwargs = random_call(call)
    hidden = [x.requires_grad_() for x in float_arguments((args, kwargs)) if x.ndim == 3]
    if not hidden:
        return False
    with torch.enable_grad():
        out = first_tensor(twin(*args, **kwargs))
    if out is None or not out.requires_grad or not out.is_floating_point():
        return False
    grads = torch.autograd.grad(random_sum(out.flatten(0, -2)[-1]), hidden, allow_unused=True)
    return any(grad is not None and bool((grad.flatten(0, -2)[:-1] != 0).any()) for grad in grads)
