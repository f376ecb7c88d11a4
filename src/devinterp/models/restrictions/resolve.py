"""Restrictions of a model: which weights a text such as ``l0h1`` means."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Literal, get_args

from torch import nn

from devinterp.errors import InvalidInputError
from devinterp.models.masks.mask import Mask
from devinterp.models.masks.param_masks import ParamMasks, canonical_names
from devinterp.models.restrictions.grammar import SETS, Numbers, Span, Term, parse
from devinterp.models.structure.types import Head, Layer, Masks, Structure, difference, union
from devinterp.types import ModelAdapter

Kind = Literal["model", "layer", "attn", "mlp", "norm", "head", "group", "cross", "expert", "router"]
KINDS = get_args(Kind)


def create_param_masks(
    model: nn.Module, restriction: str | Sequence[str], *, adapter: str | ModelAdapter | None = None
) -> ParamMasks:
    """Return the masks of the weights that a restriction names.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    restriction : str or sequence of str
        ``"full"``, ``"l0"``, ``"l0h1"``, ``"l0g0"``, ``"l0-3 attn"``, ``"l1e5"``, ``"l0 mlp n0-63"``, ``"embed"``,
        ``"l0 - l0h1"``, a parameter's or module's name, a glob over parameters' names ...; a sequence is their union.
        The whole grammar is in `devinterp.models.restrictions.grammar`.
    adapter : str or ModelAdapter, optional
        Adapter to use, where the model's own is not the one that is found.

    Returns
    -------
    ParamMasks
        In the order of ``model.named_parameters()``; never empty.

    Raises
    ------
    InvalidInputError
        The restriction cannot be read, names something that the model lacks, or selects nothing.
    """
    texts = [restriction] if isinstance(restriction, str) else list(restriction)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidInputError(f"a restriction is a text such as 'l0h1', or a list of such; got {restriction!r}.")
    reader = _Reader(model, adapter)
    total = union(reader.read(text) for text in texts)
    ordered = {name: total[name] for name in reader.parameters if name in total}
    return ParamMasks(ordered, " + ".join(text.strip() for text in texts), tuple(dict.fromkeys(reader.notes)))


def restrictions(
    model: nn.Module, kind: str | Sequence[str] | None = None, *, adapter: str | ModelAdapter | None = None
) -> tuple[str, ...]:
    """Return all components of a model, as restrictions that `create_param_masks` reads.

    ``{name: name for name in restrictions(model, "head")}`` are the ``weight_restrictions`` of a sweep over every head.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    kind : str or sequence of str, optional
        Only these kinds: ``model`` (full, embed, unembed, other), ``layer``, ``attn``, ``mlp``, ``norm``, ``head``,
        ``group`` (heads by key/value head), ``cross`` (cross-attention and its heads), ``expert``, ``router``.
    adapter : str or ModelAdapter, optional
        Adapter to use, where the model's own is not the one that is found.

    Returns
    -------
    tuple of str
        Model first, then layer by layer.

    Raises
    ------
    InvalidInputError
        A kind is unknown, or the structure of the model cannot be found.
    """
    kinds = KINDS if kind is None else (kind,) if isinstance(kind, str) else tuple(kind)
    if unknown := [k for k in kinds if k not in KINDS]:
        raise InvalidInputError(f"unknown kinds {unknown}: expected some of {', '.join(KINDS)}.")
    structure = _structure(model, adapter)
    words = {"full": {"": None}, "embed": structure.embed, "unembed": structure.unembed, "other": structure.other}
    found = [("model", word) for word, masks in words.items() if masks]
    main = next(iter(structure.stacks), "")
    for stack, index, layer in structure:
        found += _of_layer(layer, f"l{index}" if stack == main else f"{stack} l{index}")
    return tuple(name for k, name in found if k in kinds)


def _of_layer(layer: Layer, name: str) -> Iterable[tuple[str, str]]:
    if layer.masks:
        yield "layer", name
    for word, masks in (("attn", layer.attn), ("mlp", layer.mlp), ("norm", layer.norm)):
        if masks:
            yield word, f"{name} {word}"
    heads = layer.heads()
    yield from (("head", f"{name}h{i}") for i in range(len(heads)))
    yield from (("group", f"{name}g{i}") for i in range(_num_groups(layer, "self")))
    if any(attention.kind == "cross" for attention in layer.attentions):
        yield "cross", f"{name} cross"
        yield from (("cross", f"{name} cross h{i}") for i in range(len(layer.heads("cross"))))
    yield from (("expert", f"{name}e{i}") for i in range(len(layer.experts)))
    if layer.router:
        yield "router", f"{name} router"


def _structure(model: nn.Module, adapter: str | ModelAdapter | None) -> Structure:
    from devinterp.plugins import adapter_for

    return adapter_for(model, adapter).structure(model)


def _grouped(layer: Layer, kind: str) -> list[list[Head]]:
    """Return the heads by key/value head; numbered through where a layer has several attentions."""
    groups: list[list[Head]] = []
    for attention in layer.attentions:
        if attention.kind == kind:
            numbers = dict.fromkeys(head.group for head in attention.heads)
            groups += [[head for head in attention.heads if head.group == number] for number in numbers]
    return groups


def _num_groups(layer: Layer, kind: str) -> int:
    return len(_grouped(layer, kind))


class _Reader:
    """Reads restrictions against one model; the structure is found when a term first needs it."""

    def __init__(self, model: nn.Module, adapter: str | ModelAdapter | None) -> None:
        self.model, self.adapter = model, adapter
        self.parameters = dict(model.named_parameters())
        self.notes: list[str] = []

    @cached_property
    def canonical(self) -> dict[str, str]:
        """Every name of a parameter, and the one that ``named_parameters()`` gives it."""
        return canonical_names(self.model)

    @cached_property
    def structure(self) -> Structure:
        """Where the parts of the model are."""
        return _structure(self.model, self.adapter)

    def read(self, text: str) -> dict[str, Mask]:
        """Return the masks of one restriction."""
        total: dict[str, Mask] = {}
        for term in parse(text):
            masks = self.term(term)
            total = difference(total, masks) if term.subtract else union((total, masks))
        if not total:
            raise InvalidInputError(
                f"{text!r} selects no weights of {self._model}: what it takes away is all there is."
            )
        return total

    @property
    def _model(self) -> str:
        return type(self.model).__name__

    def term(self, term: Term) -> dict[str, Mask]:
        """Return the masks of one term."""
        if term.layers is not None:
            return self.layers(term, term.layers)
        if term.name == "full":
            return {name: Mask.whole(p.shape) for name, p in self.parameters.items()}
        if term.name in ("embed", "unembed", "other"):
            masks: Masks = getattr(self.structure, term.name)
            if not masks:
                raise term.span.error(f"{self._model} has no {term.name}; it has {self._components()}.")
            if term.name != "other":
                self.notes += self.structure.notes
            return dict(masks)
        return self.named(term)

    def named(self, term: Term) -> dict[str, Mask]:
        """Return the masks of the parameters that a name, a module's name or a glob means."""
        name = term.name
        names = [n for n in self.canonical if n == name or n.startswith(f"{name}.")]
        if not names and any(char in name for char in "*?["):
            names = fnmatch.filter(self.canonical, name)
        if not names:
            known = ["full", "embed", "unembed", "other", *self.canonical]
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
            hint = f"did you mean {', '.join(map(repr, close))}?" if close else f"it has {self._components()}."
            raise term.span.error(f"{name!r} is no component, parameter or module of {self._model}: {hint}")
        return {self.canonical[n]: Mask.whole(self.parameters[self.canonical[n]].shape) for n in names}

    def _components(self) -> str:
        layers = ", ".join(
            f"{'' if i == 0 else stack + ' '}l0..l{len(found) - 1}"
            for i, (stack, found) in enumerate(self.structure.stacks.items())
        )
        words = ["full", *(w for w in ("embed", "unembed", "other") if getattr(self.structure, w))]
        return ", ".join([*words, layers]) if layers else f"{', '.join(words)} (and no layers that were recognised)"

    # -- layers -------------------------------------------------------------------------------------------------------

    def layers(self, term: Term, numbers: Numbers) -> dict[str, Mask]:
        """Return the masks of a term about layers."""
        stacks = self.structure.stacks
        if term.stack and term.stack not in stacks:
            raise term.span.error(f"{self._model} has no stack {term.stack!r}; it has {', '.join(stacks) or 'none'}.")
        found = stacks[term.stack] if term.stack else self.structure.layers
        if not found:
            raise term.span.error(f"{self._model} has no layers that were recognised; it has {self._components()}.")
        chosen = _chosen(numbers, len(found), term.span, f"layer of {self._model}")
        masks: list[Masks] = []
        missing: list[InvalidInputError] = []
        for index in chosen:
            try:
                masks.append(self.in_layer(term, index, found[index]))
            except InvalidInputError as error:
                if numbers.ranges is not None:
                    raise
                missing.append(error)
        if not masks:
            raise missing[0]
        total = union(masks)
        if not total:
            raise term.span.error(f"{term.span.text!r} selects no weights of {self._model}.")
        return total

    def in_layer(self, term: Term, index: int, layer: Layer) -> Masks:
        """Return the masks of a term within one layer."""
        word = term.words[0] if term.words else ""
        if term.counted is None:
            return self.part_of_layer(term, word, index, layer)
        letter, numbers = term.counted
        if letter in "hg":
            return self.heads(term, letter, numbers, "cross" if word == "cross" else "self", index, layer)
        if letter == "e":
            if not layer.experts:
                raise self.lacks(term, index, layer, "experts")
            chosen = _chosen(numbers, len(layer.experts), term.span, f"expert of layer {index}")
            return union(layer.experts[e] for e in chosen)
        if layer.neurons is None:
            why = f": it is a mixture of {len(layer.experts)} experts, e0 ..." if layer.experts else ""
            raise self.lacks(term, index, layer, f"neurons that were recognised{why}")
        chosen = _chosen(numbers, layer.neurons.size, term.span, f"neuron of layer {index}")
        neurons = layer.neurons.masks(chosen)
        return {self.canonical[name]: mask for name, mask in neurons.items()}

    def part_of_layer(self, term: Term, word: str, index: int, layer: Layer) -> Masks:
        """Return a layer, or what a word means in it."""
        if word in ("", "attn", "mlp", "norm", "router", "shared"):
            masks = getattr(layer, word or "masks")
            if word == "attn" and layer.mixer:
                self.notes.append(f"layer {index} mixes tokens by {layer.mixer}")
        elif word == "experts":
            masks = union(layer.experts)
        else:
            masks = union(attention.masks for attention in layer.attentions if attention.kind == word)
            masks = {name: mask for name, mask in masks.items() if name in layer.attn}
        if not masks:
            raise self.lacks(term, index, layer, {"mlp": "MLP", "attn": "attention", "": "weights"}.get(word, word))
        return dict(masks)

    def lacks(self, term: Term, index: int, layer: Layer, what: str) -> InvalidInputError:
        """Return the error for a part that a layer lacks."""
        has = [word for word in ("attn", "mlp", "norm", "router", "shared") if getattr(layer, word)]
        kinds = dict.fromkeys(attention.kind for attention in layer.attentions)
        has += [f"{len(layer.heads(kind))} {kind}-attention heads" for kind in kinds if layer.heads(kind)]
        has += [f"{len(layer.experts)} experts"] if layer.experts else []
        has += [f"{layer.neurons.size} neurons"] if layer.neurons else []
        return term.span.error(f"layer {index} of {self._model} has no {what}; it has {', '.join(has)}.")

    def heads(self, term: Term, letter: str, numbers: Numbers, kind: str, index: int, layer: Layer) -> Masks:
        """Return heads, or groups of heads, or a part of them."""
        heads: list[list[Head]] = _grouped(layer, kind) if letter == "g" else [[head] for head in layer.heads(kind)]
        if not heads:
            raise self.lacks(term, index, layer, f"{kind}-attention heads{_why_no_heads(layer, kind)}")
        chosen = _chosen(numbers, len(heads), term.span, f"{SETS[letter]} of layer {index}")
        selected = [head for i in chosen for head in heads[i]]
        if not term.part:
            return union(head.masks for head in selected)
        part = "other" if term.part == "rest" else term.part
        masks = union(head.parts.get(part, {}) for head in selected)
        if not masks:
            known = ["rest" if p == "other" else p for p in selected[0].parts]
            raise term.span.error(f"heads of layer {index} have no part {term.part!r}; they have {', '.join(known)}.")
        return masks


def _why_no_heads(layer: Layer, kind: str) -> str:
    reasons = [attention.no_heads for attention in layer.attentions if attention.kind == kind and attention.no_heads]
    if reasons:
        return f" that could be told apart ({reasons[0]})"
    return f" (tokens are mixed by {layer.mixer})" if layer.mixer else ""


def _chosen(numbers: Numbers, size: int, span: Span, what: str) -> list[int]:
    """Return the indices of a set, checked against what there is."""
    if numbers.ranges is None:
        return list(range(size))
    for first, last in numbers.ranges:
        if last >= size:
            number = first if first >= size else last
            raise span.error(f"there is no {what} with number {number}: they are 0..{size - 1}.")
    return sorted({i for first, last in numbers.ranges for i in range(first, last + 1)})
