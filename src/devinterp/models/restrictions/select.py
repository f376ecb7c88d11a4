"""The masks that one term of a restriction selects in a model."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Collection
from functools import cached_property
from typing import Any

from torch import nn

from devinterp.errors import InvalidInputError
from devinterp.models.adapter_weights import is_lora
from devinterp.models.masks.mask import Mask
from devinterp.models.masks.param_masks import Masks, canonical_names, union
from devinterp.models.parameter_check import listed, trainable_names, why_not_sampled
from devinterp.models.restrictions.grammar import MODEL_WORDS, SETS, Numbers, Span, Term
from devinterp.models.structure.detect import detect_on
from devinterp.models.structure.types import Layer, Structure
from devinterp.plugins import adapter_for
from devinterp.types import ModelAdapter


class Selector:
    """Selects the weights of one model that terms name, and collects `notes` on them for people to read.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    adapter : str, ModelAdapter or None
        Which adapter finds its structure; None: the one that matches.
    example_inputs : object
        What to run the model on to find its structure; None: a few tokens.
    trainable : collection of str or None
        The parameters that are trained; None: those that require gradients now.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: str | ModelAdapter | None,
        example_inputs: Any = None,
        trainable: Collection[str] | None = None,
    ) -> None:
        self.model, self.adapter, self.example_inputs = model, adapter, example_inputs
        self.model_name = type(model).__name__
        self.parameters = dict(model.named_parameters())
        self.trainable = trainable_names(model) if trainable is None else trainable
        self.notes: list[str] = []

    @cached_property
    def canonical(self) -> dict[str, str]:
        """Every name of a parameter, and the one that ``named_parameters()`` gives it."""
        return canonical_names(self.model)

    @cached_property
    def structure(self) -> Structure:
        """Where the parts of the model are; found when a term first needs it."""
        if self.example_inputs is not None:
            return detect_on(self.model, self.example_inputs)
        return adapter_for(self.model, self.adapter).structure(self.model)

    def term(self, term: Term) -> Masks:
        """Return the masks of one term, without parameters whose numbers cannot be moved, unless these are all or named."""
        masks = self._masks(term)
        kept = {name: self.parameters[name] for name in masks if not self.parameters[name].is_complex()}
        fixed = {name: why for name, parameter in kept.items() if (why := why_not_sampled(parameter))}
        empty = {name for name in masks if not self.parameters[name].numel()}
        if fixed and (len(fixed) == len(masks) or term.name in self.canonical):
            name, why = next(iter(fixed.items()))
            raise term.span.error(f"{name!r} of {self.model_name} cannot be sampled: {why}.")
        if fixed:
            self.notes.append(f"left out, because their numbers do not move in small steps: {listed(fixed)}")
        return {name: mask for name, mask in masks.items() if name not in fixed and name not in empty}

    def _masks(self, term: Term) -> Masks:
        if term.layers is not None:
            return self._in_layers(term, term.layers)
        if term.name in ("full", "trainable", "lora"):
            return self._by_kind(term)
        if term.name in ("embed", "unembed", "other"):
            masks: Masks = getattr(self.structure, term.name)
            if not masks:
                raise term.span.error(f"{self.model_name} has no {term.name}; it has {self._components()}.")
            if term.name != "other":
                self.notes += self.structure.notes
            return masks
        return self._named(term)

    def _by_kind(self, term: Term) -> Masks:
        """Return whole masks of all parameters, of those that are trained, or of those of LoRA adapters."""
        chosen = {
            "full": list(self.parameters),
            "trainable": [name for name in self.parameters if name in self.trainable],
            "lora": [name for name in self.parameters if is_lora(name)],
        }[term.name]
        if not chosen and term.name == "lora":
            raise term.span.error(
                f"{self.model_name} has no parameters of LoRA adapters, as peft names them (lora_A, lora_B, ...); 'trainable' "
                "are those that require gradients."
            )
        if not chosen:
            raise term.span.error(
                f"all parameters of {self.model_name} have requires_grad=False: 'full' is all of them."
            )
        return {name: Mask.whole(self.parameters[name].shape) for name in chosen}

    def _named(self, term: Term) -> Masks:
        """Return the masks of the parameters that a name, a module's name or a glob means."""
        name = term.name
        names = [n for n in self.canonical if n == name or n.startswith(f"{name}.")]
        if not names and any(char in name for char in "*?["):
            names = fnmatch.filter(self.canonical, name)
        if not names:
            known = [*MODEL_WORDS, *self.canonical]
            close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
            hint = f"did you mean {', '.join(map(repr, close))}?" if close else f"it has {self._components()}."
            raise term.span.error(f"{name!r} is no component, parameter or module of {self.model_name}: {hint}")
        return {self.canonical[n]: Mask.whole(self.parameters[self.canonical[n]].shape) for n in names}

    def _components(self) -> str:
        stacks = self.structure.stacks.items()
        layers = [f"{f'{name} ' if i else ''}l0..l{len(stack) - 1}" for i, (name, stack) in enumerate(stacks)]
        words = ["full", *(word for word in ("embed", "unembed", "other") if getattr(self.structure, word))]
        return ", ".join([*words, *layers]) + ("" if layers else " (and no layers that were recognised)")

    def _in_layers(self, term: Term, numbers: Numbers) -> Masks:
        """Return the masks of a term about layers."""
        stacks = self.structure.stacks
        if term.stack and term.stack not in stacks:
            known = ", ".join(stacks) or "none"
            raise term.span.error(f"{self.model_name} has no stack {term.stack!r}; it has {known}.")
        layers = stacks[term.stack] if term.stack else self.structure.layers
        if not layers:
            raise term.span.error(f"{self.model_name} has no layers that were recognised; it has {self._components()}.")
        masks: list[Masks] = []
        missing: list[InvalidInputError] = []
        for index in _indices(numbers, len(layers), term.span, f"layer of {self.model_name}"):
            try:
                masks.append(self._in_layer(term, index, layers[index]))
            except InvalidInputError as error:
                # A layer named by its number must have the part; of all layers, those count that have it.
                if numbers.ranges is not None:
                    raise
                missing.append(error)
        if not masks:
            raise missing[0]
        total = union(masks)
        if not total:
            raise term.span.error(f"{term.span.text!r} selects no weights of {self.model_name}.")
        return total

    def _in_layer(self, term: Term, index: int, layer: Layer) -> Masks:
        """Return the masks of a term within one layer."""
        word = term.words[0] if term.words else ""
        if term.counted is None:
            return self._part_of_layer(term, word, index, layer)
        letter, numbers = term.counted
        if letter in "hg":
            return self._heads(term, letter, numbers, "cross" if word == "cross" else "self", index, layer)
        if letter == "e":
            if not layer.experts:
                raise self._lacks(term, index, layer, "experts")
            experts = _indices(numbers, len(layer.experts), term.span, f"expert of layer {index}")
            return union(layer.experts[e] for e in experts)
        if layer.neurons is None:
            why = f": it is a mixture of {len(layer.experts)} experts, e0 ..." if layer.experts else ""
            raise self._lacks(term, index, layer, f"neurons that were recognised{why}")
        neurons = _indices(numbers, layer.neurons.size, term.span, f"neuron of layer {index}")
        return {self.canonical[name]: mask for name, mask in layer.neurons.masks(neurons).items()}

    def _part_of_layer(self, term: Term, word: str, index: int, layer: Layer) -> Masks:
        """Return the masks of a layer, or of the part of it that a word names."""
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
            raise self._lacks(term, index, layer, {"mlp": "MLP", "attn": "attention", "": "weights"}.get(word, word))
        return dict(masks)

    def _heads(self, term: Term, letter: str, numbers: Numbers, kind: str, index: int, layer: Layer) -> Masks:
        """Return the masks of heads, or of groups of heads, or of a part of them."""
        groups = layer.groups(kind) if letter == "g" else [[head] for head in layer.heads(kind)]
        if not groups:
            raise self._lacks(term, index, layer, f"{kind}-attention heads{_why_no_heads(layer, kind)}")
        chosen = _indices(numbers, len(groups), term.span, f"{SETS[letter]} of layer {index}")
        heads = [head for i in chosen for head in groups[i]]
        if not term.part:
            return union(head.masks for head in heads)
        masks = union(head.parts.get("other" if term.part == "rest" else term.part, {}) for head in heads)
        if not masks:
            known = ["rest" if part == "other" else part for part in heads[0].parts]
            raise term.span.error(f"heads of layer {index} have no part {term.part!r}; they have {', '.join(known)}.")
        return masks

    def _lacks(self, term: Term, index: int, layer: Layer, missing: str) -> InvalidInputError:
        """Return the error for a part that a layer lacks."""
        has = [word for word in ("attn", "mlp", "norm", "router", "shared") if getattr(layer, word)]
        kinds = dict.fromkeys(attention.kind for attention in layer.attentions)
        has += [f"{len(layer.heads(kind))} {kind}-attention heads" for kind in kinds if layer.heads(kind)]
        has += [f"{len(layer.experts)} experts"] if layer.experts else []
        has += [f"{layer.neurons.size} neurons"] if layer.neurons else []
        return term.span.error(f"layer {index} of {self.model_name} has no {missing}; it has {', '.join(has)}.")


def _why_no_heads(layer: Layer, kind: str) -> str:
    reasons = [attention.no_heads for attention in layer.attentions if attention.kind == kind and attention.no_heads]
    if reasons:
        return f" that could be told apart ({reasons[0]})"
    return f" (tokens are mixed by {layer.mixer})" if layer.mixer else ""


def _indices(numbers: Numbers, size: int, span: Span, kind: str) -> list[int]:
    """Return the indices that `numbers` stand for, checked against the `size` of what they count."""
    if numbers.ranges is None:
        return list(range(size))
    for first, last in numbers.ranges:
        if last >= size:
            number = first if first >= size else last
            raise span.error(f"there is no {kind} with number {number}: they are 0..{size - 1}.")
    return sorted({i for first, last in numbers.ranges for i in range(first, last + 1)})
