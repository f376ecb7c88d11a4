"""The weights of each attention head, found by gradients.

Cut the input of the output projection in one slice per head: the support of a slice's gradient *is* what the head reads,
whatever the layout of the projections. It is taken on a copy of one attention module with random weights (trained or
freshly initialised ones may have exact zeros) and with its norms frozen to their scales (a norm over the width of all
heads couples every head to every other through one number).
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from devinterp.models.masks.mask import Mask
from devinterp.models.structure.trace import Call, WatchAttention, is_norm, is_projection, tensors

Parts = dict[str, dict[str, Mask]]
SEED = 20


@dataclass(frozen=True)
class Heads:
    """What the probe of one attention found, in names relative to its module.

    Parameters
    ----------
    parts : list of dict
        Masks of each head, by part and parameter.
    groups : list of int
        Key/value head of each head.
    output : str
        Path of the output projection.
    """

    parts: list[Parts]
    groups: list[int]
    output: str


def probing_copy(module: nn.Module, frozen_norms: bool = True) -> nn.Module:
    """Return a float32 copy of `module` on the CPU with random weights and frozen norms; its hooks are left out."""
    memo: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        # Weights are replaced anyway: share nothing, and copy from no other device.
        fresh = torch.empty(tensor.shape, dtype=torch.float32 if tensor.is_floating_point() else tensor.dtype)
        if isinstance(tensor, nn.Parameter):
            memo[id(tensor)] = nn.Parameter(fresh, requires_grad=tensor.is_floating_point())
        else:
            memo[id(tensor)] = torch.zeros_like(fresh) if tensor.is_meta else fresh.copy_(tensor)
    twin = copy.deepcopy(module, memo)
    generator = torch.Generator().manual_seed(SEED)
    for parameter in twin.parameters():
        # Unit gain for matrices; vectors around one, so that scales, decays and sinks are neither zero nor extreme.
        gain = 1 / math.sqrt(parameter.shape[-1]) if parameter.ndim >= 2 else 0.1
        noise = torch.randn(parameter.shape, generator=generator) * gain
        parameter.data = noise if parameter.ndim >= 2 else noise + 1
    for child in twin.modules():
        for hooks in (child._forward_hooks, child._forward_pre_hooks, child._backward_hooks):
            hooks.clear()
        if frozen_norms and is_norm(child) and _takes_one(child):
            child.forward = _scale_only(child)
        config = getattr(child, "config", None)
        if getattr(config, "_attn_implementation", "eager") not in ("eager", "sdpa"):
            config._attn_implementation = "eager"  # type: ignore[union-attr]
    return twin.eval()


def _takes_one(norm: nn.Module) -> bool:
    """Say whether a norm needs one argument; one of queries and keys together is left as it is."""
    parameters = inspect.signature(norm.forward).parameters.values()
    return sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters) == 1


def _scale_only(norm: nn.Module) -> Callable[..., Tensor]:
    def forward(x: Tensor, *gates: Any, **kwargs: Any) -> Tensor:
        for name, parameter in norm.named_parameters():
            x = x + parameter if name.endswith("bias") else x * parameter
        for gate in (*gates, *kwargs.values()):
            if isinstance(gate, Tensor):
                x = x * gate
        return x

    return forward


def random_call(call: Call) -> Call:
    """Return the call with random hidden states, everything float32 on the CPU and free of history."""
    generator = torch.Generator().manual_seed(SEED)

    def fresh(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.detach().to("cpu")
        if not value.is_floating_point():
            return value.clone()
        if value.ndim == 3:  # hidden states; masks and tables of positions have other ranks, or may be anything
            return torch.randn(value.shape, generator=generator)
        return value.float().clone()

    args, kwargs = call
    # A cache would hold the tokens of an earlier run.
    kwargs = {name: None if "past_key_value" in name or name == "cache" else value for name, value in kwargs.items()}
    args, kwargs = tree_map(fresh, (args, kwargs))
    return args, kwargs


@dataclass
class _Run:
    """One run of the copy: inputs and outputs of the modules that own weights, and what attention returned."""

    inputs: dict[str, Tensor] = field(default_factory=dict)
    outputs: dict[str, Tensor] = field(default_factory=dict)
    calls: dict[str, Call] = field(default_factory=dict)
    attended: list[Tensor] = field(default_factory=list)
    num_heads: list[tuple[int, ...]] = field(default_factory=list)
    num_queries: int = 0
    before: list[str] = field(default_factory=list)


def _run(twin: nn.Module, call: Call, frozen: bool = False, cut_but: str | None = None) -> _Run:
    """Run the copy; with attention weights frozen, or with the inputs of all projections but one cut off."""
    run = _Run()

    def seen(out: Tensor, heads: tuple[int, ...], num_queries: int) -> None:
        if not run.attended:
            run.num_queries, run.before = num_queries, list(run.outputs)
        run.attended.append(out)
        run.num_heads.append(heads)

    def record(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            given = next(iter(tensors((args, kwargs))), None)
            out = next(
                (t for t in (output if isinstance(output, tuple | list) else (output,)) if isinstance(t, Tensor)), None
            )
            if given is not None and out is not None and path not in run.outputs:
                run.inputs[path], run.outputs[path], run.calls[path] = given, out, (args, kwargs)

        return hook

    owners = [(path, m) for path, m in twin.named_modules() if any(True for _ in m.parameters(recurse=False))]
    hooks = [m.register_forward_hook(record(path), with_kwargs=True) for path, m in owners if path]
    if cut_but is not None:
        cut = [m for path, m in owners if path not in ("", cut_but) and is_projection(m)]
        hooks += [m.register_forward_pre_hook(_detach, with_kwargs=True) for m in cut]
    try:
        with torch.enable_grad(), WatchAttention(seen, frozen):
            twin(*call[0], **call[1])
    finally:
        for hook in hooks:
            hook.remove()
    return run


def _detach(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return tree_map(lambda x: x.detach() if isinstance(x, Tensor) else x, (args, kwargs))  # type: ignore[no-any-return]


def _reaches(start: Tensor, end: Tensor) -> bool:
    """Say whether the gradient of `end` reaches `start`."""
    if not (start.requires_grad and end.requires_grad):
        return False
    return torch.autograd.grad(end.sum(), start, retain_graph=True, allow_unused=True)[0] is not None


def probe_heads(module: nn.Module, call: Call) -> Heads | None:
    """Return the heads of an attention module, or None when `module` holds no output projection fed by its attention.

    Parameters
    ----------
    module : torch.nn.Module
        The attention; it is copied and left alone.
    call : (tuple, dict)
        Arguments of one call of it, batch of one.

    Raises
    ------
    ValueError
        No division of the output projection's input gives every head weights of its own.
    """
    twin, call = probing_copy(module), random_call(call)
    run, modules = _run(twin, call), dict(twin.named_modules())
    tried: list[int] = []
    for attended, candidates in reversed(list(zip(run.attended, run.num_heads, strict=True))):
        output = _output_projection(run, modules, attended)
        if output is None:
            continue
        given, labels = run.inputs[output], _labels(twin, call, run, output)
        rows = _rows(given, run.num_queries)
        if given.ndim == 2 and rows != run.num_queries:
            # Experts that share a token have a row each.
            candidates = (candidates[0] * run.num_queries // rows,)
        divisions = [n for n in candidates if n > 0 and given.numel() % (rows * n) == 0]
        supports = {n: _supports(twin, run, output, n) for n in divisions}
        tried += divisions
        tests: list[Callable[[list[dict[str, Mask]]], bool]] = [
            lambda s, labels=labels: _all_private(_of_queries(s, labels, modules)),  # type: ignore[misc]
            _all_private,
            # Differential attention shares queries between some heads and values between others.
            lambda s: len({frozenset(support.items()) for support in s}) == len(s),
        ]
        for test in tests:
            for n in divisions:
                if test(supports[n]):
                    return _assemble(twin, run, call, output, supports[n], labels)
    if tried:
        raise ValueError(f"no division into {tried} heads gives each of them weights of its own")
    return None


def _output_projection(run: _Run, modules: dict[str, nn.Module], attended: Tensor) -> str | None:
    """Return the first projection that reads what attention returned."""
    for path, given in run.inputs.items():
        if path not in run.before and is_projection(modules[path]) and _reaches(attended, given):
            return path
    return None


def _rows(given: Tensor, num_queries: int) -> int:
    """Return how many rows the output projection reads: one per token, or more, where experts or streams share it."""
    return given.shape[:-1].numel() if given.ndim <= 3 else num_queries


def _slices(tensor: Tensor, num_heads: int, num_queries: int) -> Tensor:
    """Return `tensor` as (row, head, feature)."""
    return tensor.reshape(_rows(tensor, num_queries), num_heads, -1)


def _supports(twin: nn.Module, run: _Run, output: str, num_heads: int) -> list[dict[str, Mask]]:
    """Return the support of each head's slice over the parameters; biases by the outputs they are added to."""
    cut = _slices(run.inputs[output], num_heads, run.num_queries)
    weights = torch.randn(cut.shape, generator=torch.Generator().manual_seed(SEED))
    names = [name for name, p in twin.named_parameters() if p.requires_grad]
    parameters = dict(twin.named_parameters())
    paths = [path for path, out in run.outputs.items() if out.requires_grad]
    supports = []
    for head in range(num_heads):
        loss = (cut[:, head] * weights[:, head]).sum()
        grads = torch.autograd.grad(
            loss,
            [*(parameters[n] for n in names), *(run.outputs[p] for p in paths)],
            retain_graph=True,
            allow_unused=True,
        )
        support = {n: Mask.from_bool(g != 0) for n, g in zip(names, grads, strict=False) if g is not None}
        for path, grad in zip(paths, grads[len(names) :], strict=True):
            bias = f"{path}.bias"
            if grad is not None and bias in parameters and parameters[bias].shape == grad.shape[-1:]:
                # A key's bias shifts all scores alike, so that its own gradient vanishes: it goes with its rows.
                support[bias] = Mask.from_bool((grad != 0).flatten(0, -2).any(0))
        supports.append({name: mask for name, mask in support.items() if not mask.is_empty})
    return supports


def _of_queries(
    supports: Sequence[dict[str, Mask]], labels: dict[str, dict[str, Tensor]], modules: dict[str, nn.Module]
) -> list[dict[str, Mask]]:
    """Return the supports within query rows: halves of a head have values of their own, but the same queries."""
    rows: dict[str, Mask] = {}
    for path, columns in labels.items():
        for name, parameter in modules[path].named_parameters(recurse=False):
            dim = _output_dim(modules[path], parameter, columns["q"])
            if dim is not None and bool(columns["q"].any()):
                rows[f"{path}.{name}"] = Mask.block(parameter.shape, {dim: columns["q"].nonzero()})
    of_queries = [{n: mask & rows[n] for n, mask in support.items() if n in rows} for support in supports]
    return of_queries if any(not mask.is_empty for mask in of_queries[0].values()) else list(supports)


def _all_private(supports: Sequence[dict[str, Mask]]) -> bool:
    """Say whether every head has weights that no other head has."""
    return all(
        any(
            _private(mask, name, [other for j, other in enumerate(supports) if j != i])
            for name, mask in support.items()
        )
        for i, support in enumerate(supports)
    )


def _private(mask: Mask, name: str, others: Sequence[dict[str, Mask]]) -> bool:
    for other in others:
        if mask.is_empty:
            return False
        if name in other:
            mask = mask - other[name]
    return not mask.is_empty


def _output_columns(module: nn.Module, call: Call, num_heads: int, num_queries: int) -> list[dict[str, Mask]]:
    """Return, by head, the elements of the output projection that multiply the head's slice.

    The projection is linear: the ratio of its gradients at an input that holds ``h + 1`` in the slice of head ``h``, and
    at ones, spells the head of every element.
    """
    given = next(iter(tensors(call)))
    slices = _slices(given, num_heads, num_queries)
    marks = torch.arange(1.0, num_heads + 1).reshape(1, num_heads, 1).expand(slices.shape).reshape(given.shape)
    matrices = {n: p for n, p in module.named_parameters() if p.ndim >= 2}

    def gradients(at: Tensor) -> tuple[Tensor, ...]:
        args, kwargs = tree_map(lambda x: at if x is given else x, call)
        with torch.enable_grad():
            out = module(*args, **kwargs)
            return torch.autograd.grad((out[0] if isinstance(out, tuple) else out).sum(), list(matrices.values()))

    owner = {
        name: torch.where(ones != 0, marked / ones, 0).round().long()
        for name, marked, ones in zip(matrices, gradients(marks), gradients(torch.ones_like(marks)), strict=True)
    }
    masks = [{name: Mask.from_bool(heads == h + 1) for name, heads in owner.items()} for h in range(num_heads)]
    return [{name: _complete(mask, [m[name] for m in masks]) for name, mask in mine.items()} for mine in masks]


def _labels(twin: nn.Module, call: Call, run: _Run, output: str) -> dict[str, dict[str, Tensor]]:
    """Return which outputs of each projection are queries, keys, values or gates.

    At the last query, a query or gate matters at that token only, keys and values at the others too; values and gates
    still matter when no gradient passes through the attention weights.
    """
    found: dict[str, dict[str, Tensor]] = {}
    reached = [_reached_outputs(r, output) for r in (run, _run(twin, call, frozen=True))]
    for path, (now, earlier) in reached[0].items():
        open_now, open_earlier = reached[1].get(path, (torch.zeros_like(now), torch.zeros_like(earlier)))
        value, gate = open_earlier, open_now & ~open_earlier
        key = earlier & ~value & ~gate
        found[path] = {"q": now & ~earlier & ~gate & ~value, "k": key, "v": value, "gate": gate}
    return found


def _reached_outputs(run: _Run, output: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Return, for each projection, the columns that the last query's result depends on: at its own token, at others."""
    last = run.inputs[output].reshape(run.num_queries, -1)[-1]
    if not last.requires_grad:
        return {}
    loss = (last * torch.randn(last.shape, generator=torch.Generator().manual_seed(SEED))).sum()
    paths = [path for path, out in run.outputs.items() if out.requires_grad]
    grads = torch.autograd.grad(loss, [run.outputs[p] for p in paths], retain_graph=True, allow_unused=True)
    reached = {}
    for path, grad in zip(paths, grads, strict=True):
        if grad is not None and grad.ndim:
            hit = (grad != 0).reshape(-1, grad.shape[-1])
            reached[path] = (hit.any(0), hit[:-1].any(0))
    return reached


def _assemble(
    twin: nn.Module,
    run: _Run,
    call: Call,
    output: str,
    supports: list[dict[str, Mask]],
    labels: dict[str, dict[str, Tensor]],
) -> Heads:
    """Turn supports into parts of heads.

    A head has what not all heads share, and what it reads through no further projection: key and value rows that all
    heads read (multi-query attention) are of each, low-rank projections and norms that all share are of none.
    """
    modules, parameters = dict(twin.named_modules()), dict(twin.named_parameters())
    direct_run = _run(twin, call, cut_but=output)
    direct = _supports(twin, direct_run, output, len(supports))
    columns = _output_columns(modules[output], run.calls[output], len(supports), run.num_queries)
    projections = [path for path in run.outputs if path != output and is_projection(modules[path])]
    last = {
        path
        for path in projections
        if _is_simple(run.calls[path])
        and not any(_reaches(run.outputs[path], run.inputs[other]) for other in projections if other != path)
    }
    parts: list[Parts] = []
    for head, support in enumerate(supports):
        mine: Parts = {}
        for name in support:
            path = name.rpartition(".")[0]
            if path == output:
                continue
            mask = _own(name, head, supports, keep_shared=False)
            if name in direct[head]:
                mask = mask | _own(name, head, direct, keep_shared=path in last)
            dim = _output_dim(modules[path], parameters[name], run.outputs.get(path))
            for part, mask_of in _split(mask, dim, labels.get(path) if path in projections else None).items():
                if not mask_of.is_empty:
                    mine.setdefault(part, {})[name] = mask_of
        mine["o"] = {f"{output}.{name}": mask for name, mask in columns[head].items()}
        parts.append(mine)
    return Heads(parts, _groups(parts), output)


def _groups(parts: Sequence[Parts]) -> list[int]:
    """Return the key/value head of each head: heads whose key or value rows overlap read the same."""
    groups: list[int] = []
    for head, mine in enumerate(parts):
        read = [(name, mask) for part in ("k", "v") for name, mask in mine.get(part, {}).items()]
        same = (
            groups[other]
            for other in range(head)
            for name, mask in read
            for part in ("k", "v")
            if name in parts[other].get(part, {}) and not (mask & parts[other][part][name]).is_empty
        )
        groups.append(next(same, max(groups, default=-1) + 1))
    return groups


def _is_simple(call: Call) -> bool:
    """Say whether a projection was called on hidden states alone; tables of relative positions are not."""
    return len(call[0]) + len(call[1]) == 1


def _own(name: str, head: int, supports: Sequence[dict[str, Mask]], keep_shared: bool) -> Mask:
    """Return what one head reads of a parameter, with or without what all heads read."""
    masks = [support[name] for support in supports if name in support]
    mask = supports[head][name]
    if not keep_shared and len(masks) == len(supports):
        shared = masks[0]
        for other in masks[1:]:
            shared = shared & other
        mask = mask - shared
    return _complete(mask, masks)


def _complete(mask: Mask, all_masks: Sequence[Mask]) -> Mask:
    """Return `mask` whole in the dimensions in which no two heads differ: there, what was hit depends on the input.

    A table of position biases is such: its rows are distances, of which a few tokens visit a few; its columns are heads.
    """
    if mask.index is None or len(all_masks) < 2 or mask.is_empty:
        return mask
    chosen = {}
    for dim, idx in enumerate(mask.index):
        same = all(m.index is not None and _equal(m.index[dim], idx) for m in all_masks)
        if idx is not None and not same:
            chosen[dim] = idx
    return Mask.block(mask.shape, chosen) if chosen else mask


def _equal(a: Tensor | None, b: Tensor | None) -> bool:
    return a is b if a is None or b is None else torch.equal(a, b)


def _output_dim(module: nn.Module, parameter: Tensor, out: Tensor | None) -> int | None:
    """Return the dimension of a projection's parameter that runs over its outputs."""
    if out is None or not out.ndim or parameter.ndim > 2:
        return None
    width = out.shape[-1]
    # GPT-2's Conv1D keeps its matrix transposed.
    order = (1, 0) if type(module).__name__ == "Conv1D" and parameter.ndim == 2 else (0, 1)
    return next((dim for dim in order if dim < parameter.ndim and parameter.shape[dim] == width), None)


def _split(mask: Mask, dim: int | None, labels: dict[str, Tensor] | None) -> dict[str, Mask]:
    """Return `mask` by part, following the labels of the outputs along `dim`."""
    if labels is None or dim is None:
        return {"other": mask}
    parts = {part: mask & Mask.block(mask.shape, {dim: hit.nonzero()}) for part, hit in labels.items()}
    for part in parts.values():
        mask = mask - part
    return {**parts, "other": mask}


def mixes_tokens(module: nn.Module, call: Call) -> bool:
    """Say whether what a module returns for the last token depends on other tokens, or on another sequence."""
    twin = probing_copy(module, frozen_norms=False)
    args, kwargs = random_call(call)
    hidden = [x.requires_grad_() for x in tensors((args, kwargs)) if x.ndim == 3]
    if not hidden:
        return False
    with torch.enable_grad():
        output = twin(*args, **kwargs)
    out = next((t for t in (output if isinstance(output, tuple | list) else (output,)) if isinstance(t, Tensor)), None)
    if out is None or not out.requires_grad or not out.is_floating_point():
        return False
    last = out.flatten(0, -2)[-1]
    loss = (last * torch.randn(last.shape, generator=torch.Generator().manual_seed(SEED))).sum()
    grads = torch.autograd.grad(loss, hidden, allow_unused=True)
    return any(grad is not None and bool((grad.flatten(0, -2)[:-1] != 0).any()) for grad in grads)
