"""The attentions of a model: where they are, and their heads."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from devinterp.models.structure.known_layouts import EXCEPTIONS
from devinterp.models.structure.probe_heads import Heads, mixes_tokens, probe_heads
from devinterp.models.structure.trace import FAILURES, Trace


@dataclass(frozen=True)
class Core:
    """An attention module.

    Parameters
    ----------
    path : str
        Its path.
    heads : Heads or None
        Its heads, in names relative to it, or None where they cannot be told apart.
    reason : str
        Why they cannot.
    """

    path: str
    heads: Heads | None
    reason: str = ""


class Attentions:
    """Finds the attentions of one model; modules of one layout are probed once."""

    def __init__(self, model: nn.Module, seen: Trace) -> None:
        self.seen = seen
        self.modules = dict(model.named_modules())
        self._probed: dict[object, Heads | str | None] = {}
        self._mixing: dict[object, bool] = {}

    def find(self) -> dict[str, Core]:
        """Return, for each softmax over tokens, the smallest module that holds it and the projection behind it."""
        found: dict[str, Core] = {}
        known = [path for path in self.seen.calls if type(self.modules[path]).__name__ in EXCEPTIONS]
        for site in (*self.seen.sites, *known):
            core = self._climb(site)
            if core is not None:
                found.setdefault(core.path, core)
        # The heads of an indexer or compressor inside an attention are parts of that attention.
        return {path: core for path, core in found.items() if not any(path.startswith(f"{p}.") for p in found)}

    def element(self, path: str) -> str | None:
        """Return the path of the outermost element of a list of modules that `path` lies in."""
        parts = path.split(".")
        for i in range(1, len(parts)):
            if isinstance(self.modules[".".join(parts[:i])], nn.ModuleList | nn.Sequential):
                return ".".join(parts[: i + 1])
        return None

    def _climb(self, site: str) -> Core | None:
        while site and not any(True for _ in self.modules[site].parameters()):
            site = site.rpartition(".")[0]  # a Softmax of its own
        path, reason, element = site, "", self.element(site)
        while path in self.seen.calls:
            kind = type(self.modules[path]).__name__
            if kind in EXCEPTIONS:
                return Core(path, EXCEPTIONS[kind](self.modules[path]))
            if path == site and not self.mixes(path):
                return None
            if path == element and path != site:
                break
            heads = self._probe(path)
            if isinstance(heads, Heads):
                return Core(path, heads)
            reason = heads or reason
            path = path.rpartition(".")[0]
        return Core(site, None, reason or "no projection in its module reads what its attention returns")

    def _signature(self, path: str) -> object:
        """Return what modules of one layout have in common; the index of the layer is no part of it."""
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
        key = self._signature(path)
        if key not in self._probed:
            try:
                self._probed[key] = probe_heads(self.modules[path], self.seen.calls[path])
            except FAILURES as error:
                self._probed[key] = f"{type(error).__name__}: {error}"
        return self._probed[key]

    def mixes(self, path: str) -> bool:
        """Say whether the module at `path`, if it ran, mixes tokens."""
        if path not in self.seen.calls:
            return False
        key = self._signature(path)
        if key not in self._mixing:
            try:
                self._mixing[key] = mixes_tokens(self.modules[path], self.seen.calls[path])
            except FAILURES:
                self._mixing[key] = False
        return self._mixing[key]
