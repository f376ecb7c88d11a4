"""What cannot be derived, each with its reason. Everything else is found by `detection`."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from devinterp.models.masks.mask import Mask
from devinterp.models.structure.probe_heads import Heads, Parts


def _multihead_attention(module: nn.Module) -> Heads:
    """`torch.nn.MultiheadAttention` calls no modules: its projections are passed to one function. Layout: its docs."""
    assert isinstance(module, nn.MultiheadAttention)
    width, size = module.embed_dim, module.head_dim
    parts: list[Parts] = []
    for head in range(module.num_heads):
        rows = range(head * size, (head + 1) * size)
        mine: Parts = {"o": {"out_proj.weight": Mask.block(module.out_proj.weight.shape, {1: rows})}}
        for i, part in enumerate("qkv"):
            shifted = [i * width + row for row in rows]
            separate = getattr(module, f"{part}_proj_weight")
            if separate is not None:
                mine[part] = {f"{part}_proj_weight": Mask.block(separate.shape, {0: rows})}
            elif module.in_proj_weight is not None:
                mine[part] = {"in_proj_weight": Mask.block(module.in_proj_weight.shape, {0: shifted})}
            if module.in_proj_bias is not None:
                mine[part]["in_proj_bias"] = Mask.block(module.in_proj_bias.shape, {0: shifted})
            bias = getattr(module, f"bias_{part}", None)
            if bias is not None:
                mine[part][f"bias_{part}"] = Mask.block(bias.shape, {2: rows})
        parts.append(mine)
    return Heads(parts, list(range(module.num_heads)), "out_proj")


def _xlnet(module: nn.Module) -> Heads:
    """XLNet's projections are raw parameters of shape (width, head, feature), used in einsums: there is no module to cut."""
    names = {"q": "q", "k": "k", "v": "v", "o": "o", "r": "other"}
    parameters = dict(module.named_parameters(recurse=False))
    num_heads = parameters["q"].shape[1]
    parts: list[Parts] = []
    for head in range(num_heads):
        mine: Parts = {}
        for name, parameter in parameters.items():
            dim = 0 if parameter.ndim == 2 else 1
            mine.setdefault(names.get(name, "other"), {})[name] = Mask.block(parameter.shape, {dim: [head]})
        parts.append(mine)
    return Heads(parts, list(range(num_heads)), "o")


def _reformer(module: nn.Module) -> Heads:
    """Reformer attends by ``exp(scores - logsumexp(scores))`` within chunks and buckets: there is no softmax to watch."""
    attention = module.get_submodule("self_attention")
    num_heads = int(attention.num_attention_heads)  # type: ignore[arg-type]
    size = int(attention.attention_head_size)  # type: ignore[arg-type]
    shapes = {name: p.shape for name, p in module.named_parameters()}
    parts: list[Parts] = []
    for head in range(num_heads):
        rows = range(head * size, (head + 1) * size)
        mine: Parts = {"o": {"output.dense.weight": Mask.block(shapes["output.dense.weight"], {1: rows})}}
        # Attention by hashing has one projection for queries and keys.
        for part, name in {"q": "query", "k": "key", "v": "value", "q+k": "query_key"}.items():
            weight = f"self_attention.{name}.weight"
            if weight in shapes:
                mine[part[0]] = {weight: Mask.block(shapes[weight], {0: rows})}
        parts.append(mine)
    return Heads(parts, list(range(num_heads)), "output.dense")


EXCEPTIONS: dict[str, Callable[[nn.Module], Heads]] = {
    "MultiheadAttention": _multihead_attention,
    "ReformerAttention": _reformer,
    "XLNetRelativeAttention": _xlnet,
}
