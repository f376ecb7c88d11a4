"""Attentions whose heads cannot be found by probing, each with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor, nn

from devinterp.models.masks.mask import Mask
from devinterp.models.structure.head_parts import Heads, Parts

Place = tuple[str, str, Tensor, int, int]
"""Part, name and value of a parameter, dimension that runs over the features of all heads, offset of the first head."""


def _heads(num_heads: int, head_size: int, places: Iterable[Place]) -> Heads:
    parts: list[Parts] = [{} for _ in range(num_heads)]
    for part, name, parameter, dim, offset in places:
        for head, mine in enumerate(parts):
            features = range(offset + head * head_size, offset + (head + 1) * head_size)
            mine.setdefault(part, {})[name] = Mask.block(parameter.shape, {dim: features})
    return Heads(parts, list(range(num_heads)))


def _multihead_attention(module: nn.Module) -> Heads:
    """`torch.nn.MultiheadAttention` passes its projections to one function instead of calling modules. Layout: its docs."""
    assert isinstance(module, nn.MultiheadAttention)
    parameters = dict(module.named_parameters())
    places: list[Place] = [("o", "out_proj.weight", parameters["out_proj.weight"], 1, 0)]
    for i, part in enumerate("qkv"):
        packed = (0, i * module.embed_dim)
        dims = {f"{part}_proj_weight": (0, 0), "in_proj_weight": packed, "in_proj_bias": packed, f"bias_{part}": (2, 0)}
        places += [(part, name, parameters[name], *dim) for name, dim in dims.items() if name in parameters]
    return _heads(module.num_heads, module.head_dim, places)


def _xlnet(module: nn.Module) -> Heads:
    """XLNet's projections are parameters of shape (width, head, feature) in einsums: no module reads what heads return."""
    parameters = dict(module.named_parameters(recurse=False))
    parts = {name: name if name in ("q", "k", "v", "o") else "other" for name in parameters}
    places = [(parts[name], name, p, 0 if p.ndim == 2 else 1, 0) for name, p in parameters.items()]
    return _heads(parameters["q"].shape[1], 1, places)


def _reformer(module: nn.Module) -> Heads:
    """Reformer attends by ``exp(scores - logsumexp(scores))`` within chunks and buckets: there is no softmax to watch."""
    attention = module.get_submodule("self_attention")
    parameters = dict(module.named_parameters())
    # Attention by hashing has one projection for queries and keys.
    parts = {"query": "q", "key": "k", "value": "v", "query_key": "q"}
    names = {f"self_attention.{name}.weight": part for name, part in parts.items()}
    places: list[Place] = [("o", "output.dense.weight", parameters["output.dense.weight"], 1, 0)]
    places += [(part, name, parameters[name], 0, 0) for name, part in names.items() if name in parameters]
    return _heads(int(attention.num_attention_heads), int(attention.attention_head_size), places)  # type: ignore[arg-type]


KNOWN_LAYOUTS: dict[str, Callable[[nn.Module], Heads]] = {
    "MultiheadAttention": _multihead_attention,
    "ReformerAttention": _reformer,
    "XLNetRelativeAttention": _xlnet,
}
