"""Masks of the weights that restrictions select, and the restrictions that a model has parts for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from torch import nn

from devinterp import arguments
from devinterp.errors import InvalidInputError
from devinterp.models.adapter_weights import is_lora
from devinterp.models.masks.mask import Mask
from devinterp.models.masks.param_masks import ParamMasks, difference, union, validated_masks, whole_masks
from devinterp.models.parameter_check import check_sampled, default_names, note_of_frozen, trainable_names
from devinterp.models.restrictions.grammar import parse
from devinterp.models.restrictions.select import Selector
from devinterp.models.structure.detect import detect_on
from devinterp.models.structure.types import Layer, Structure
from devinterp.models.wrappers import inner_name, outer_prefix, unwrapped
from devinterp.plugins import adapter_for
from devinterp.types import ModelAdapter

Kind = Literal["model", "layer", "attn", "mlp", "norm", "head", "group", "cross", "expert", "router"]
KINDS = get_args(Kind)


def create_param_masks(
    model: nn.Module,
    restriction: str | Sequence[str],
    *,
    adapter: str | ModelAdapter | None = None,
    example_inputs: Any = None,
) -> ParamMasks:
    """Return the masks of the weights that a restriction names.

    Parameters
    ----------
    model : torch.nn.Module
        The model; one inside of `torch.compile`, DataParallel or peft is found.
    restriction : str or sequence of str
        ``"full"``, ``"trainable"``, ``"lora"``, ``"l0"``, ``"l0h1"``, ``"l0g0"``, ``"l0-3 attn"``, ``"l1e5"``,
        ``"l0 mlp n0-63"``, ``"embed"``, ``"l0 - l0h1"``, a parameter's or module's name, a glob over parameters' names ...; a
        sequence is their union. The whole grammar is in `devinterp.models.restrictions.grammar`.
    adapter : str or ModelAdapter, optional
        An adapter, or the name of one, to use instead of the one that matches the model.
    example_inputs : tensor, tuple or mapping, optional
        What to run the model on to find its layers and heads, where that is not a few tokens: an argument, positional
        arguments, or keyword arguments (pictures of a vision transformer, say). Only the first row is used.

    Returns
    -------
    ParamMasks
        In the order of ``model.named_parameters()`` and by these names; never empty.

    Raises
    ------
    InvalidInputError
        The restriction cannot be read, names something that the model lacks, or selects nothing.
    """
    inner, prefix = unwrapped(model), outer_prefix(model)
    masks = _created(inner, restriction, Selector(inner, adapter, example_inputs), prefix)
    return _renamed(masks, {name: f"{prefix}{name}" for name in masks}) if prefix else masks


def _created(model: nn.Module, restriction: str | Sequence[str], selector: Selector, prefix: str = "") -> ParamMasks:
    texts = arguments.names("restriction", restriction)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InvalidInputError(f"`restriction` (={restriction!r}) must be a text such as 'l0h1', or a list of such.")
    inside = [text.replace(prefix, "") if prefix else text for text in texts]
    total = union(_masks(selector, text) for text in inside)
    ordered = {name: total[name] for name in selector.parameters if name in total}
    return ParamMasks(ordered, " + ".join(text.strip() for text in inside), tuple(dict.fromkeys(selector.notes)))


def _renamed(masks: ParamMasks, names: Mapping[str, str]) -> ParamMasks:
    return ParamMasks({names[name]: mask for name, mask in masks.items()}, masks.description, masks.notes)


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


def as_param_masks(
    model: nn.Module,
    masks: Mapping[str, Any] | str | Sequence[str] | None,
    *,
    trainable: Collection[str] | None = None,
) -> ParamMasks:
    """Return validated masks, from any form that ``param_masks`` may have.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    masks : mapping, str, sequence of str or None
        None for every parameter that requires gradients; one or several restrictions (see `create_param_masks`); or masks by
        parameter name (see `validated_masks`).
    trainable : collection of str, optional
        The parameters that are trained; default: those that require gradients now.

    Returns
    -------
    ParamMasks
        By the names of ``model.named_parameters()``, without what wrappers put before them.

    Raises
    ------
    InvalidInputError
        A restriction or a mask cannot be used, or nothing is selected.
    """
    inner, prefix = unwrapped(model), outer_prefix(model)
    if trainable is None:
        trainable = trainable_names(inner)
    if masks is None:
        return _by_default(inner, trainable)
    if isinstance(masks, str) or (isinstance(masks, Sequence) and all(isinstance(part, str) for part in masks)):
        chosen = _created(inner, masks, Selector(inner, None, trainable=trainable), prefix)
    elif isinstance(masks, Mapping):
        names = {name: inner_name(model, name) if isinstance(name, str) else name for name in masks}
        given = masks
        if any(name != inside for name, inside in names.items()):
            given = {names[name]: mask for name, mask in masks.items()}
            if isinstance(masks, ParamMasks):
                given = ParamMasks(given, masks.description, masks.notes)
        chosen = validated_masks(inner, given)
    else:
        raise InvalidInputError(
            f"`param_masks` must be a mapping of parameter names to masks, a restriction such as 'l0h1', or None; got "
            f"{type(masks).__name__}."
        )
    check_sampled(inner, chosen)
    return chosen


def _by_default(model: nn.Module, trainable: Collection[str]) -> ParamMasks:
    names = default_names(model, trainable)
    check_sampled(model, names)
    masks = whole_masks(model, names)
    note = note_of_frozen(model, names)
    return ParamMasks(masks, masks.description, (note,) if note else ())


def restrictions(
    model: nn.Module,
    kind: str | Sequence[str] | None = None,
    *,
    adapter: str | ModelAdapter | None = None,
    example_inputs: Any = None,
) -> tuple[str, ...]:
    """Return the parts of a model, as restrictions that `create_param_masks` reads.

    ``{name: name for name in restrictions(model, "head")}`` are the ``weight_restrictions`` of a sweep over every head.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    kind : str or sequence of str, optional
        Only these kinds: ``model`` (full, embed, unembed, other; trainable and lora where they are less), ``layer``,
        ``attn``, ``mlp``, ``norm``, ``head``,
        ``group`` (heads by key/value head), ``cross`` (cross-attention and its heads), ``expert``, ``router``.
    adapter : str or ModelAdapter, optional
        An adapter, or the name of one, to use instead of the one that matches the model.
    example_inputs : tensor, tuple or mapping, optional
        As for `create_param_masks`.

    Returns
    -------
    tuple of str
        Model first, then layer by layer; never empty.

    Raises
    ------
    InvalidInputError
        A kind is unknown, the structure of the model cannot be found, or it has no part of the kinds asked for.
    """
    kinds = KINDS if kind is None else tuple(arguments.names("kind", kind))
    if unknown := [k for k in kinds if k not in KINDS]:
        raise InvalidInputError(f"`kind` (={unknown}) must be some of {', '.join(KINDS)}.")
    model = unwrapped(model)
    structure = (
        adapter_for(model, adapter).structure(model) if example_inputs is None else detect_on(model, example_inputs)
    )
    parameters = dict(model.named_parameters())
    words = {
        "full": True,
        "trainable": any(p.requires_grad for p in parameters.values())
        and not all(p.requires_grad for p in parameters.values()),
        "lora": any(map(is_lora, parameters)),
        "embed": structure.embed,
        "unembed": structure.unembed,
        "other": structure.other,
    }
    names = [("model", word) for word, masks in words.items() if masks]
    main = next(iter(structure.stacks), "")
    for stack, index, layer in structure:
        names += _of_layer(layer, f"l{index}" if stack == main else f"{stack} l{index}")
    chosen = tuple(name for k, name in names if k in kinds)
    if not chosen:
        raise InvalidInputError(_none_of(structure, type(model).__name__, kinds, [k for k, _ in names]))
    return chosen


def _none_of(structure: Structure, model_name: str, kinds: Sequence[str], present: Sequence[str]) -> str:
    """Return the message for kinds of which a model has no part."""
    layers = [layer for _, _, layer in structure]
    why = [attention.no_heads for layer in layers for attention in layer.attentions if attention.no_heads]
    why += [f"tokens are mixed by {layer.mixer}" for layer in layers if layer.mixer]
    reason = f" ({why[0]})" if why and set(kinds) & {"head", "group", "cross"} else ""
    return (
        f"no {' or '.join(kinds)} was found in {model_name}{reason}; it has parts of the kinds "
        f"{', '.join(dict.fromkeys(present))}. If it is run on other inputs than tokens, pass `example_inputs=`."
    )


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
