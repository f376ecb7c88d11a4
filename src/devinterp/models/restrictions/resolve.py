"""Masks of the weights that restrictions select, and the restrictions that a model has parts for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from torch import nn

from devinterp.errors import InvalidInputError
from devinterp.models.masks.mask import Mask
from devinterp.models.masks.param_masks import ParamMasks, difference, full_masks, union, validated_masks
from devinterp.models.restrictions.grammar import parse
from devinterp.models.restrictions.select import Selector
from devinterp.models.structure.types import Layer
from devinterp.plugins import adapter_for
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
        An adapter, or the name of one, to use instead of the one that matches the model.

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
    selector = Selector(model, adapter)
    total = union(_masks(selector, text) for text in texts)
    ordered = {name: total[name] for name in selector.parameters if name in total}
    return ParamMasks(ordered, " + ".join(text.strip() for text in texts), tuple(dict.fromkeys(selector.notes)))


def _masks(selector: Selector, text: str) -> dict[str, Mask]:
    total: dict[str, Mask] = {}
    for term in parse(text):
        masks = selector.term(term)
        total = difference(total, masks) if term.subtract else union((total, masks))
    if not total:
        raise InvalidInputError(
            f"{text!r} selects no weights of {selector.model_name}: it subtracts all that it names."
        )
    return total


def as_param_masks(model: nn.Module, masks: Mapping[str, Any] | str | Sequence[str] | None) -> ParamMasks:
    """Return validated masks, from any form that ``param_masks`` may have.

    `masks` may be None for every parameter; one or several restrictions (see `create_param_masks`); or masks by parameter
    name (see `validated_masks`).

    Raises
    ------
    InvalidInputError
        A restriction or a mask cannot be used, or nothing is selected.
    """
    if masks is None:
        return full_masks(model)
    if isinstance(masks, str) or (isinstance(masks, Sequence) and all(isinstance(part, str) for part in masks)):
        return create_param_masks(model, masks)
    if not isinstance(masks, Mapping):
        raise InvalidInputError(
            f"`param_masks` must be a mapping of parameter names to masks, a restriction such as 'l0h1', or None; got "
            f"{type(masks).__name__}."
        )
    return validated_masks(model, masks)


def restrictions(
    model: nn.Module, kind: str | Sequence[str] | None = None, *, adapter: str | ModelAdapter | None = None
) -> tuple[str, ...]:
    """Return the parts of a model, as restrictions that `create_param_masks` reads.

    ``{name: name for name in restrictions(model, "head")}`` are the ``weight_restrictions`` of a sweep over every head.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    kind : str or sequence of str, optional
        Only these kinds: ``model`` (full, embed, unembed, other), ``layer``, ``attn``, ``mlp``, ``norm``, ``head``,
        ``group`` (heads by key/value head), ``cross`` (cross-attention and its heads), ``expert``, ``router``.
    adapter : str or ModelAdapter, optional
        An adapter, or the name of one, to use instead of the one that matches the model.

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
    structure = adapter_for(model, adapter).structure(model)
    words = {"full": True, "embed": structure.embed, "unembed": structure.unembed, "other": structure.other}
    names = [("model", word) for word, masks in words.items() if masks]
    main = next(iter(structure.stacks), "")
    for stack, index, layer in structure:
        names += _of_layer(layer, f"l{index}" if stack == main else f"{stack} l{index}")
    return tuple(name for k, name in names if k in kinds)


def _of_layer(layer: Layer, name: str) -> Iterable[tuple[str, str]]:
    if layer.masks:
        yield "layer", name
    for word, masks in (("attn", layer.attn), ("mlp", layer.mlp), ("norm", layer.norm)):
        if masks:
            yield word, f"{name} {word}"
    yield from (("head", f"{name}h{i}") for i in range(len(layer.heads())))
    yield from (("group", f"{name}g{i}") for i in range(len(layer.groups())))
    if any(attention.kind == "cross" for attention in layer.attentions):
        yield "cross", f"{name} cross"
        yield from (("cross", f"{name} cross h{i}") for i in range(len(layer.heads("cross"))))
    yield from (("expert", f"{name}e{i}") for i in range(len(layer.experts)))
    if layer.router:
        yield "router", f"{name} router"
