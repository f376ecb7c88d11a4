"""Where the layers, attentions, MLPs and norms of a model are, derived from one run of a few tokens."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from devinterp.errors import InvalidInputError
from devinterp.models.forward import device_of
from devinterp.models.masks.mask import Mask
from devinterp.models.masks.param_masks import canonical_names
from devinterp.models.structure.attention import Attentions, Core
from devinterp.models.structure.layer_lists import find_stacks
from devinterp.models.structure.mlp import Feedforward, Fits, feedforward
from devinterp.models.structure.trace import FAILURES, Trace, is_norm, is_projection, trace
from devinterp.models.structure.types import Attention, Head, Layer, Structure, difference

# Numbers of tokens to try: few and odd first; some models need whole chunks.
NUM_TOKENS = (7, 16, 64)
CROSS = re.compile(r"cross|encoder_attn|encdec|enc_dec|encoder_decoder", re.IGNORECASE)
ATTENTION = re.compile(r"attention|attn|mixer|mamba", re.IGNORECASE)
RESIDUAL = re.compile(r"hyper_?connection|altup|residual|layer_?scale", re.IGNORECASE)
FEEDFORWARD = re.compile(r"(mlp|moe|experts?|ffn|feed_?forward|intermediate|moeblock|ffnblock)$", re.IGNORECASE)

_cache: weakref.WeakKeyDictionary[nn.Module, tuple[object, Structure]] = weakref.WeakKeyDictionary()


def detect(model: nn.Module, run: Callable[[Tensor], Tensor]) -> Structure:
    """Return the structure of `model`; remembered until its parameters change in shape or identity.

    Parameters
    ----------
    model : torch.nn.Module
        Any model that maps token ids to logits.
    run : callable
        ``run(input_ids)`` returns its logits.

    Raises
    ------
    InvalidInputError
        The model cannot be run on a few tokens.
    """
    state = tuple((id(p), p.shape) for p in model.parameters())
    if model in _cache and _cache[model][0] == state:
        return _cache[model][1]
    structure = _Detection(model, _traced(model, run)).structure()
    _cache[model] = (state, structure)
    return structure


def _traced(model: nn.Module, run: Callable[[Tensor], Tensor]) -> Trace:
    if device_of(model).type == "meta":
        raise InvalidInputError(
            f"{type(model).__name__} is on the meta device: its structure is found by running it; load its weights, or "
            "pass masks by parameter name."
        )
    failures = []
    for num_tokens in NUM_TOKENS:
        # Out of order, so that they are not mistaken for positions.
        ids = (5 * torch.arange(num_tokens, device=device_of(model))[None] + 3) % num_tokens + 1
        # A vocabulary may be smaller than the number of tokens.
        for tokens in (ids, ids % 2):
            try:
                return trace(model, run, tokens)
            except FAILURES as error:
                failures.append(error)
    raise InvalidInputError(
        f"the structure of {type(model).__name__} is found by running it on a few tokens, and that failed with "
        f"{type(failures[0]).__name__}: {failures[0]}. Pass masks by parameter name, or write an adapter (ModelAdapter, "
        "about 20 lines) whose `structure` says where the layers and heads are."
    ) from failures[0]


@dataclass
class _Parts:
    """Names of a layer's parameters by what they are, and its attentions, mixers and MLP modules by path."""

    attn: list[str] = field(default_factory=list)
    mlp: list[str] = field(default_factory=list)
    norm: list[str] = field(default_factory=list)
    cores: list[Core] = field(default_factory=list)
    mixers: list[str] = field(default_factory=list)
    feedforwards: list[str] = field(default_factory=list)
    visited: set[str] = field(default_factory=set)


class _Detection:
    """One model and what one run of it has shown."""

    def __init__(self, model: nn.Module, seen: Trace) -> None:
        self.model, self.seen = model, seen
        self.modules = dict(model.named_modules(remove_duplicate=False))
        # A module that several layers share was seen under its first name only.
        self.first = {id(module): path for path, module in model.named_modules()}
        self.canonical = canonical_names(model)
        self.parameters = dict(model.named_parameters(remove_duplicate=False))
        self.order = {path: i for i, path in enumerate(seen.calls)}
        self.attentions = Attentions(model, seen)
        self.cores = self.attentions.find()
        self.known: dict[object, Fits] = {}

    def structure(self) -> Structure:
        """Return everything that was found."""
        stacks = {
            name: tuple(self.layer(paths) for paths in layers)
            for name, layers in find_stacks(self.modules, self.seen, self.cores, self.attentions).items()
        }
        embed, unembed = self.embedding(), self.unembedding()
        if unembed is None:
            # Some models multiply by the embedding itself.
            unembed = [name for name in embed if self.parameters[name].shape[0] == self.seen.logits.shape[-1]]
        taken = {name for layers in stacks.values() for layer in layers for name in layer.masks}
        taken |= {self.canonical[name] for name in (*embed, *unembed)}
        notes = []
        if shared := {self.canonical[n] for n in embed} & {self.canonical[n] for n in unembed}:
            notes.append(f"embed and unembed are tied: both are {', '.join(sorted(shared))}")
        return Structure(
            embed=self.whole(embed),
            unembed=self.whole(unembed),
            stacks=stacks,
            other=self.whole(name for name, canonical in self.canonical.items() if canonical not in taken),
            notes=tuple(notes),
        )

    def whole(self, names: Iterable[str]) -> dict[str, Mask]:
        """Return whole masks under the names that ``named_parameters()`` gives."""
        return {self.canonical[name]: Mask.whole(self.parameters[name].shape) for name in names}

    def named(self, masks: dict[str, Mask], path: str = "") -> dict[str, Mask]:
        """Return masks, named relative to `path`, under the names that ``named_parameters()`` gives."""
        return {self.canonical[f"{path}.{name}" if path else name]: mask for name, mask in masks.items()}

    # -- embedding and unembedding ------------------------------------------------------------------------------------

    def embedding(self) -> list[str]:
        """Return the table that the token ids are looked up in."""
        for path, (args, kwargs) in self.seen.calls.items():
            given = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
            tables = [n for n, p in self.modules[path].named_parameters(recurse=False) if p.ndim == 2]
            if tables and given is not None and not given.is_floating_point() and self._are_ids(given):
                return [f"{path}.{name}" for name in tables]
        return []

    def _are_ids(self, given: Tensor) -> bool:
        # Some models put a prompt of their own before the tokens, some pad behind them.
        flat, ids = given.flatten(), self.seen.ids.flatten()
        if len(flat) < len(ids):
            return False
        return torch.equal(flat[-len(ids) :].to(ids), ids) or torch.equal(flat[: len(ids)].to(ids), ids)

    def unembedding(self) -> list[str] | None:
        """Return the parameters of the last projection that ran with an output per entry of the vocabulary."""
        for path in reversed(list(self.seen.calls)):
            if self.seen.widths.get(path) == self.seen.logits.shape[-1] and is_projection(self.modules[path]):
                return [f"{path}.{name}" for name, _ in self.modules[path].named_parameters(recurse=False)]
        return None

    # -- layers -------------------------------------------------------------------------------------------------------

    def layer(self, paths: Sequence[str]) -> Layer:
        """Return one layer, made of the modules at `paths` (one, but where a model keeps lists of parts)."""
        parts = _Parts()
        for path in paths:
            if len(paths) > 1 or path in self.cores:
                self.visit(path, parts)
            else:
                self.descend(path, parts)
        inside = self.feedforward(parts.feedforwards)
        experts = tuple(self.named(expert) for expert in inside.experts)
        router = self.whole(inside.router)
        mlp = self.whole(parts.mlp)
        shared = difference(mlp, router) if experts else {}
        for expert in experts:
            shared = difference(shared, expert)
        return Layer(
            name=paths[0],
            attn=self.whole(parts.attn),
            mlp=mlp,
            norm=self.whole(parts.norm),
            attentions=tuple(self.attention(core) for core in parts.cores),
            mixer=", ".join(dict.fromkeys(type(self.modules[path]).__name__ for path in parts.mixers)),
            experts=experts,
            router=router,
            shared=shared,
            neurons=inside.neurons,
        )

    def own(self, path: str) -> list[str]:
        """Return the parameters that a module holds itself."""
        return [f"{path}.{name}" for name, _ in self.modules[path].named_parameters(recurse=False)]

    def all(self, path: str) -> list[str]:
        """Return the parameters in a module."""
        return [f"{path}.{name}" for name, _ in self.modules[path].named_parameters(remove_duplicate=False)]

    def descend(self, path: str, parts: _Parts) -> None:
        """Sort the children of a module; what it holds itself scales or mixes the residual stream."""
        parts.norm += self.own(path)
        for name, _ in self.modules[path].named_children():
            self.visit(f"{path}.{name}", parts)

    def visit(self, path: str, parts: _Parts) -> None:
        """Sort the parameters of a module into attention, MLP and norm."""
        module = self.modules[path]
        path = self.first[id(module)]
        if not self.all(path) or path in parts.visited:
            return
        parts.visited.add(path)
        if path in self.cores:
            parts.cores.append(self.cores[path])
            self.without_outer_norms(path, parts.attn, parts.norm)
        elif any(core.startswith(f"{path}.") for core in self.cores):
            self.descend(path, parts)
        elif is_norm(module) or RESIDUAL.search(type(module).__name__):
            parts.norm += self.all(path)
        elif self.is_mixer(path):
            parts.mixers.append(path)
            self.without_outer_norms(path, parts.attn, parts.norm)
        else:
            parts.feedforwards.append(path)
            self.without_outer_norms(path, parts.mlp, parts.norm)

    def is_mixer(self, path: str) -> bool:
        """Say whether a module mixes tokens; one named after feed-forward does not count (RWKV's looks one token back)."""
        module, name = self.modules[path], path.rpartition(".")[2]
        if FEEDFORWARD.search(name) or FEEDFORWARD.search(type(module).__name__):
            return False
        if path not in self.order:
            return bool(ATTENTION.search(type(module).__name__) or ATTENTION.search(name))
        return not isinstance(module, nn.Linear) and self.attentions.mixes(path)

    def without_outer_norms(self, path: str, inner: list[str], outer: list[str]) -> None:
        """Add the parameters of a module to `inner`, but those of norms that run before or after all else to `outer`."""
        projections = [self.order[p] for p in self.below(path) if p in self.order and is_projection(self.modules[p])]
        first, last = (min(projections), max(projections)) if projections else (0, -1)
        norms: set[str] = set()
        for below in self.below(path):
            if is_norm(self.modules[below]) and below in self.order and not first <= self.order[below] <= last:
                norms |= set(self.all(below))
        for name in self.all(path):
            (outer if name in norms else inner).append(name)

    def below(self, path: str) -> list[str]:
        """Return the paths of a module and all in it."""
        return [self.first[id(module)] for module in self.modules[path].modules()]

    def feedforward(self, paths: Sequence[str]) -> Feedforward:
        """Return what is inside an MLP."""
        try:
            return feedforward(self.model, paths, self.seen, self.known)
        except FAILURES:
            # An MLP that cannot be looked into is still an MLP.
            return Feedforward()

    def attention(self, core: Core) -> Attention:
        """Return an attention under the names of the model."""
        heads: tuple[Head, ...] = ()
        if core.heads is not None:
            heads = tuple(
                Head({part: self.named(masks, core.path) for part, masks in parts.items()}, group)
                for parts, group in zip(core.heads.parts, core.heads.groups, strict=True)
            )
        name = ".".join(core.path.split(".")[-2:])
        kind = "cross" if CROSS.search(name) or self._reads_another(core.path) else "self"
        return Attention(core.path, kind, self.whole(self.all(core.path)), heads, core.reason)

    def _reads_another(self, path: str) -> bool:
        args, kwargs = self.seen.calls.get(path, ((), {}))
        if isinstance(self.modules[path], nn.MultiheadAttention):
            queries, keys = (*args, kwargs.get("query"), kwargs.get("key"))[:2]
            return queries is not keys
        return any(kwargs.get(name) is not None for name in ("key_value_states", "encoder_hidden_states"))
