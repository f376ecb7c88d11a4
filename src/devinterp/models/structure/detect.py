"""Detection of a model's structure from one run on a few tokens."""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from devinterp.errors import InvalidInputError
from devinterp.models.forward import device_of
from devinterp.models.masks.mask import Mask
from devinterp.models.masks.param_masks import Masks, canonical_names, difference
from devinterp.models.structure.attention import AttentionFinder, ProbedAttention
from devinterp.models.structure.layer_lists import find_stacks
from devinterp.models.structure.layer_parts import LayerSorter
from devinterp.models.structure.mlp import MLPParts, Strides, mlp_parts
from devinterp.models.structure.module_kinds import is_projection
from devinterp.models.structure.running import eager_attention, first_row
from devinterp.models.structure.trace import FAILURES, Trace, record_trace
from devinterp.models.structure.types import Attention, Head, Layer, Structure

# Few and odd first; some models need whole chunks of tokens.
NUM_TOKENS = (7, 16, 64)
CROSS = re.compile(r"cross|encoder_attn|encdec|enc_dec|encoder_decoder", re.IGNORECASE)

_cache: weakref.WeakKeyDictionary[nn.Module, tuple[object, Structure]] = weakref.WeakKeyDictionary()


def detect(model: nn.Module, run: Callable[[Tensor], Any]) -> Structure:
    """Return the structure of `model`; remembered until its parameters change in shape or identity.

    Parameters
    ----------
    model : torch.nn.Module
        Any model that reads token ids.
    run : callable
        ``run(input_ids)`` returns what the model gives: logits, or anything with a tensor of numbers.

    Raises
    ------
    InvalidInputError
        The model cannot be run on a few tokens.
    """
    state = tuple((id(p), p.shape) for p in model.parameters())
    if model in _cache and _cache[model][0] == state:
        return _cache[model][1]
    with eager_attention(model):
        structure = _Detection(model, _traced(model, run)).structure()
    _cache[model] = (state, structure)
    return structure


def detect_on(model: nn.Module, example_inputs: Any) -> Structure:
    """Return the structure of `model`, found by running it on inputs of its own kind: pictures, sounds, tokens with a mask.

    Parameters
    ----------
    model : torch.nn.Module
        Any model.
    example_inputs : tensor, tuple or mapping
        One argument, positional arguments, or keyword arguments. Only the first row is used.

    Raises
    ------
    InvalidInputError
        The model cannot be run on them.
    """
    args, kwargs = first_row(example_inputs, device_of(model))
    given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    ids = next((x for x in given if x.ndim == 2 and not x.is_floating_point()), torch.empty(0, dtype=torch.long))
    with eager_attention(model):
        try:
            trace = record_trace(model, lambda _: model(*args, **kwargs), ids)
        except FAILURES as error:
            raise InvalidInputError(
                f"{type(model).__name__} does not run on the first row of `example_inputs`: {type(error).__name__}: {error}. "
                "Pass what its `forward` takes: a tensor, a tuple of arguments, or a dict of keyword arguments."
            ) from error
        return _Detection(model, trace).structure()


def _traced(model: nn.Module, run: Callable[[Tensor], Any]) -> Trace:
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
                return record_trace(model, run, tokens)
            except FAILURES as error:
                failures.append(error)
    raise InvalidInputError(
        f"the structure of {type(model).__name__} is found by running it on a few tokens, and that failed with "
        f"{type(failures[0]).__name__}: {failures[0]}. Pass `example_inputs=` to `create_param_masks` if it takes other "
        "inputs, or masks by parameter name, or write an adapter (ModelAdapter, about 20 lines) whose `structure` returns "
        "the masks of its layers and heads."
    ) from failures[0]


class _Detection:
    """One model, the trace of one run, and what is derived from both."""

    def __init__(self, model: nn.Module, trace: Trace) -> None:
        self.model, self.trace = model, trace
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.canonical = canonical_names(model)
        self.parameters = dict(model.named_parameters(remove_duplicate=False))
        self.finder = AttentionFinder(model, trace)
        self.attentions = self.finder.find()
        self.sorter = LayerSorter(model, trace, self.finder, self.attentions)
        self.known_neurons: dict[object, dict[int, Strides]] = {}

    def structure(self) -> Structure:
        """Return the structure of the model."""
        lists = find_stacks(self.modules, self.trace, self.attentions, self.finder)
        stacks = {name: tuple(self.layer(paths) for paths in layers) for name, layers in lists.items()}
        in_layers = tuple(f"{path}." for layers in lists.values() for paths in layers for path in paths)
        embed, unembed = self.embedding(), self.unembedding(in_layers)
        if unembed is None:
            # Some models multiply by the embedding itself.
            unembed = [name for name in embed if self.parameters[name].shape[0] == self.trace.logits.shape[-1]]
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

    def named(self, masks: Masks, path: str = "") -> dict[str, Mask]:
        """Return masks, named relative to `path`, under the names that ``named_parameters()`` gives."""
        return {self.canonical[f"{path}.{name}" if path else name]: mask for name, mask in masks.items()}

    def embedding(self) -> list[str]:
        """Return the names of the table in which the token ids are looked up."""
        if not self.trace.ids.numel():
            return []
        for path, (args, kwargs) in self.trace.calls.items():
            given = next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
            tables = [name for name, p in self.modules[path].named_parameters(recurse=False) if p.ndim == 2]
            if tables and given is not None and not given.is_floating_point() and self._are_ids(given):
                return [f"{path}.{name}" for name in tables]
        return []

    def _are_ids(self, given: Tensor) -> bool:
        # Some models put a prompt of their own before the tokens, some pad behind them.
        flat, ids = given.flatten(), self.trace.ids.flatten()
        if len(flat) < len(ids):
            return False
        return torch.equal(flat[-len(ids) :].to(ids), ids) or torch.equal(flat[: len(ids)].to(ids), ids)

    def unembedding(self, in_layers: tuple[str, ...]) -> list[str] | None:
        """Return the parameters of the last projection, outside of layers, with an output per entry of the vocabulary."""
        for path in reversed(list(self.trace.calls)):
            if f"{path}.".startswith(in_layers):  # of a model without a head, whose output is that of its last layer
                continue
            if self.trace.widths.get(path) == self.trace.logits.shape[-1] and is_projection(self.modules[path]):
                return [f"{path}.{name}" for name, _ in self.modules[path].named_parameters(recurse=False)]
        return None

    def layer(self, paths: Sequence[str]) -> Layer:
        """Return the layer made of the modules at `paths`."""
        parts = self.sorter.parts(paths)
        try:
            inside = mlp_parts(self.model, parts.mlps, self.trace, self.known_neurons)
        except FAILURES:
            inside = MLPParts()  # an MLP whose parts cannot be found is still an MLP
        experts = tuple(self.named(expert) for expert in inside.experts)
        mlp, router = self.whole(parts.mlp), self.whole(inside.router)
        shared = difference(mlp, router) if experts else {}
        for expert in experts:
            shared = difference(shared, expert)
        return Layer(
            name=paths[0],
            attn=self.whole(parts.attn),
            mlp=mlp,
            norm=self.whole(parts.norm),
            attentions=tuple(self.attention(attention) for attention in parts.attentions),
            mixer=", ".join(dict.fromkeys(type(self.modules[path]).__name__ for path in parts.mixers)),
            experts=experts,
            router=router,
            shared=shared,
            neurons=inside.neurons,
        )

    def attention(self, probed: ProbedAttention) -> Attention:
        """Return an attention with the parameter names of the model."""
        heads: tuple[Head, ...] = ()
        if probed.heads is not None:
            heads = tuple(
                Head({part: self.named(masks, probed.path) for part, masks in parts.items()}, group)
                for parts, group in zip(probed.heads.parts, probed.heads.groups, strict=True)
            )
        name = ".".join(probed.path.split(".")[-2:])
        kind = "cross" if CROSS.search(name) or self._reads_other_tokens(probed.path) else "self"
        return Attention(probed.path, kind, self.whole(self.sorter.parameters(probed.path)), heads, probed.no_heads)

    def _reads_other_tokens(self, path: str) -> bool:
        """Say whether keys and values come from another sequence than queries."""
        args, kwargs = self.trace.calls.get(path, ((), {}))
        if isinstance(self.modules[path], nn.MultiheadAttention):
            queries, keys = (*args, kwargs.get("query"), kwargs.get("key"))[:2]
            return queries is not keys
        return any(kwargs.get(name) is not None for name in ("key_value_states", "encoder_hidden_states"))
