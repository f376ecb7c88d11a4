"""The structure of a HookedTransformer, taken from the names of its parameters, which have a dimension of heads."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from devinterp.models.masks import Mask
from devinterp.models.structure import Attention, Head, Layer, Neurons, Structure

PARTS = {"W_Q": "q", "b_Q": "q", "W_K": "k", "b_K": "k", "W_V": "v", "b_V": "v", "W_O": "o"}


def structure(model: nn.Module) -> Structure:
    """Return the structure of a ``HookedTransformer``."""
    parameters = dict(model.named_parameters())
    num_layers = int(model.cfg.n_layers)  # type: ignore[union-attr, arg-type]
    layers = tuple(_layer(parameters, f"blocks.{i}") for i in range(num_layers))
    embed, unembed = _whole(parameters, "embed."), _whole(parameters, "unembed.")
    taken = {name for layer in layers for name in layer.masks} | set(embed) | set(unembed)
    other = {name: Mask.whole(p.shape) for name, p in parameters.items() if name not in taken}
    return Structure(embed, unembed, {"dec": layers}, other)


def _whole(parameters: Mapping[str, Tensor], prefix: str) -> dict[str, Mask]:
    return {name: Mask.whole(p.shape) for name, p in parameters.items() if name.startswith(prefix)}


def _layer(parameters: Mapping[str, Tensor], name: str) -> Layer:
    attention, mlp = f"{name}.attn", f"{name}.mlp"
    attn = {**_whole(parameters, f"{attention}."), **_whole(parameters, f"{name}.cross_attn.")}
    heads = tuple(_heads(parameters, attention))
    mlp_masks = _whole(parameters, f"{mlp}.")
    norm = {n: m for n, m in _whole(parameters, f"{name}.").items() if n not in attn and n not in mlp_masks}
    experts = _experts(parameters, mlp)
    router = _whole(parameters, f"{mlp}.W_gate") if experts else {}
    return Layer(
        name=name,
        attn=attn,
        mlp=mlp_masks,
        norm=norm,
        attentions=(Attention(attention, "self", attn, heads),),
        experts=experts,
        router=router,
        neurons=None if experts else _neurons(parameters, mlp),
    )


def _heads(parameters: Mapping[str, Tensor], attention: str) -> list[Head]:
    """Return the heads; with grouped queries keys and values are stored once per group, under ``_W_K`` and ``_W_V``."""
    num_heads = len(parameters[f"{attention}.W_Q"])
    grouped = f"{attention}._W_K" in parameters
    num_groups = len(parameters[f"{attention}._W_K" if grouped else f"{attention}.W_K"])
    heads = []
    for head in range(num_heads):
        group = head * num_groups // num_heads
        parts: dict[str, dict[str, Mask]] = {}
        for short, part in PARTS.items():
            shared = grouped and part in ("k", "v")
            full = f"{attention}.{'_' if shared else ''}{short}"
            if full in parameters:
                index = group if part in ("k", "v") else head
                parts.setdefault(part, {})[full] = Mask.block(parameters[full].shape, {0: [index]})
        heads.append(Head(parts, group))
    return heads


def _experts(parameters: Mapping[str, Tensor], mlp: str) -> tuple[dict[str, Mask], ...]:
    numbers = {name.split(".")[4] for name in parameters if name.startswith(f"{mlp}.experts.")}
    return tuple(_whole(parameters, f"{mlp}.experts.{number}.") for number in sorted(numbers, key=int))


def _neurons(parameters: Mapping[str, Tensor], mlp: str) -> Neurons | None:
    if f"{mlp}.W_out" not in parameters:
        return None
    size = len(parameters[f"{mlp}.W_out"])
    dims = {"W_out": 0, "W_in": 1, "W_gate": 1, "b_in": 0}
    places = tuple(
        (f"{mlp}.{name}", tuple(parameters[f"{mlp}.{name}"].shape), dim, 0, 1)
        for name, dim in dims.items()
        if f"{mlp}.{name}" in parameters
    )
    return Neurons(size, places)
