"""The parameters of one layer, sorted into attention, MLP and norms."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from devinterp.models.structure.attention import AttentionFinder, ProbedAttention
from devinterp.models.structure.module_kinds import is_norm, is_projection
from devinterp.models.structure.trace import Trace

ATTENTION = re.compile(r"attention|attn|mixer|mamba", re.IGNORECASE)
RESIDUAL = re.compile(r"hyper_?connection|altup|residual|layer_?scale", re.IGNORECASE)
MLP = re.compile(r"(mlp|moe|experts?|ffn|feed_?forward|intermediate|moeblock|ffnblock)$", re.IGNORECASE)


@dataclass
class LayerParts:
    """Names of a layer's parameters by kind; its attentions, and the paths of other mixers of tokens and of MLPs."""

    attn: list[str] = field(default_factory=list)
    mlp: list[str] = field(default_factory=list)
    norm: list[str] = field(default_factory=list)
    attentions: list[ProbedAttention] = field(default_factory=list)
    mixers: list[str] = field(default_factory=list)
    mlps: list[str] = field(default_factory=list)
    visited: set[str] = field(default_factory=set)  # a module that is reached by two paths is sorted once


class LayerSorter:
    """Sorts the parameters of the layers of one model, whose attentions are known."""

    def __init__(
        self, model: nn.Module, trace: Trace, finder: AttentionFinder, attentions: Mapping[str, ProbedAttention]
    ) -> None:
        self.finder, self.attentions = finder, attentions
        self.modules = dict(model.named_modules(remove_duplicate=False))
        # The trace has a module that several layers share under its first path only.
        self.first_path = {id(module): path for path, module in model.named_modules()}
        self.order = {path: i for i, path in enumerate(trace.calls)}

    def parts(self, paths: Sequence[str]) -> LayerParts:
        """Return the parts of the layer made of the modules at `paths` (one, unless a model keeps lists of parts)."""
        parts = LayerParts()
        for path in paths:
            if len(paths) > 1 or path in self.attentions:
                self._visit(path, parts)
            else:
                self._visit_children(path, parts)
        return parts

    def parameters(self, path: str) -> list[str]:
        """Return the names of all parameters in a module."""
        return [f"{path}.{name}" for name, _ in self.modules[path].named_parameters(remove_duplicate=False)]

    def _visit_children(self, path: str, parts: LayerParts) -> None:
        # The parameters that a layer holds itself scale or mix the residual stream.
        parts.norm += [f"{path}.{name}" for name, _ in self.modules[path].named_parameters(recurse=False)]
        for name, _ in self.modules[path].named_children():
            self._visit(f"{path}.{name}", parts)

    def _visit(self, path: str, parts: LayerParts) -> None:
        module = self.modules[path]
        path = self.first_path[id(module)]
        if not self.parameters(path) or path in parts.visited:
            return
        parts.visited.add(path)
        if path in self.attentions:
            parts.attentions.append(self.attentions[path])
            self._add(path, parts.attn, parts.norm)
        elif any(attention.startswith(f"{path}.") for attention in self.attentions):
            self._visit_children(path, parts)
        elif is_norm(module) or RESIDUAL.search(type(module).__name__):
            parts.norm += self.parameters(path)
        elif self._is_mixer(path):
            parts.mixers.append(path)
            self._add(path, parts.attn, parts.norm)
        else:
            parts.mlps.append(path)
            self._add(path, parts.mlp, parts.norm)

    def _is_mixer(self, path: str) -> bool:
        """Say whether a module mixes tokens; one named as an MLP does not count (RWKV's looks one token back)."""
        module, name = self.modules[path], path.rpartition(".")[2]
        if MLP.search(name) or MLP.search(type(module).__name__):
            return False
        if path not in self.order:
            return bool(ATTENTION.search(type(module).__name__) or ATTENTION.search(name))
        return not isinstance(module, nn.Linear) and self.finder.mixes_tokens(path)

    def _add(self, path: str, inner: list[str], outer: list[str]) -> None:
        """Add the parameters of a module to `inner`, those of norms that run before or after all projections to `outer`."""
        inside = [self.first_path[id(module)] for module in self.modules[path].modules()]
        projections = [self.order[p] for p in inside if p in self.order and is_projection(self.modules[p])]
        first, last = (min(projections), max(projections)) if projections else (0, -1)
        norms: set[str] = set()
        for below in inside:
            if is_norm(self.modules[below]) and below in self.order and not first <= self.order[below] <= last:
                norms |= set(self.parameters(below))
        for name in self.parameters(path):
            (outer if name in norms else inner).append(name)
