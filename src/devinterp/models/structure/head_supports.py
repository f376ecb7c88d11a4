"""Which weights each head depends on: the support of the gradient of the head's slice of the output projection's input."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from devinterp.models.masks import index_sets
from devinterp.models.masks.mask import Mask
from devinterp.models.structure.module_kinds import output_dim
from devinterp.models.structure.probing_run import SEED, ProbingRun
from devinterp.models.structure.trace import Call, float_arguments

Support = dict[str, Mask]
"""The weights that one head depends on, by parameter."""


def num_rows(given: Tensor, num_queries: int) -> int:
    """Return how many rows the output projection reads: one per token, or more, if experts or streams share it."""
    return given.shape[:-1].numel() if given.ndim <= 3 else num_queries


def _slices(tensor: Tensor, num_heads: int, num_queries: int) -> Tensor:
    """Return `tensor` as (row, head, feature)."""
    return tensor.reshape(num_rows(tensor, num_queries), num_heads, -1)


def head_supports(twin: nn.Module, run: ProbingRun, output: str, num_heads: int) -> list[Support]:
    """Return the weights that each slice of the input of projection `output` depends on, cut into `num_heads` slices."""
    slices = _slices(run.inputs[output], num_heads, run.num_queries)
    weights = torch.randn(slices.shape, generator=torch.Generator().manual_seed(SEED))
    parameters = dict(twin.named_parameters())
    names = [name for name, p in parameters.items() if p.requires_grad]
    paths = [path for path, out in run.outputs.items() if out.requires_grad]
    sources = [*(parameters[name] for name in names), *(run.outputs[path] for path in paths)]
    supports = []
    for head in range(num_heads):
        loss = (slices[:, head] * weights[:, head]).sum()
        grads = torch.autograd.grad(loss, sources, retain_graph=True, allow_unused=True)
        support = {n: Mask.from_bool(g != 0) for n, g in zip(names, grads, strict=False) if g is not None}
        for path, grad in zip(paths, grads[len(names) :], strict=True):
            bias = f"{path}.bias"
            if grad is not None and bias in parameters and parameters[bias].shape == grad.shape[-1:]:
                # A key's bias shifts all scores alike, so that its own gradient vanishes: it goes with its outputs.
                support[bias] = Mask.from_bool((grad != 0).flatten(0, -2).any(0))
        supports.append({name: mask for name, mask in support.items() if not mask.is_empty})
    return supports


def within_queries(
    supports: Sequence[Support], labels: dict[str, dict[str, Tensor]], modules: dict[str, nn.Module]
) -> list[Support]:
    """Return the supports within query rows: halves of a head have values of their own, but the same queries."""
    rows: Support = {}
    for path, columns in labels.items():
        for name, parameter in modules[path].named_parameters(recurse=False):
            dim = output_dim(modules[path], parameter, len(columns["q"]))
            if dim is not None and bool(columns["q"].any()):
                rows[f"{path}.{name}"] = Mask.block(parameter.shape, {dim: columns["q"].nonzero()})
    queries = [{name: mask & rows[name] for name, mask in support.items() if name in rows} for support in supports]
    return queries if any(not mask.is_empty for mask in queries[0].values()) else list(supports)


def all_have_private_weights(supports: Sequence[Support]) -> bool:
    """Say whether every head depends on weights that no other head depends on."""
    return all(
        any(
            _has_private(mask, [other[name] for j, other in enumerate(supports) if j != i and name in other])
            for name, mask in support.items()
        )
        for i, support in enumerate(supports)
    )


def _has_private(mask: Mask, others: Sequence[Mask]) -> bool:
    for other in others:
        if mask.is_empty:
            return False
        mask = mask - other
    return not mask.is_empty


def output_columns(module: nn.Module, call: Call, num_heads: int, num_queries: int) -> list[Support]:
    """Return, by head, the elements of the output projection that multiply the head's slice.

    The projection is linear: the ratio of its gradients at an input that holds ``h + 1`` in the slice of head ``h``, and
    at ones, is ``h + 1`` at every element that belongs to head ``h``.
    """
    given = next(float_arguments(call))
    slices = _slices(given, num_heads, num_queries)
    marks = torch.arange(1.0, num_heads + 1).reshape(1, num_heads, 1).expand(slices.shape).reshape(given.shape)
    matrices = {name: p for name, p in module.named_parameters() if p.ndim >= 2}

    def gradients(at: Tensor) -> tuple[Tensor, ...]:
        args, kwargs = tree_map(lambda x: at if x is given else x, call)
        with torch.enable_grad():
            out = module(*args, **kwargs)
            return torch.autograd.grad((out[0] if isinstance(out, tuple) else out).sum(), list(matrices.values()))

    owners = {
        name: torch.where(ones != 0, marked / ones, 0).round().long()
        for name, marked, ones in zip(matrices, gradients(marks), gradients(torch.ones_like(marks)), strict=True)
    }
    masks = [{name: Mask.from_bool(owner == h + 1) for name, owner in owners.items()} for h in range(num_heads)]
    return [{name: completed(mask, [m[name] for m in masks]) for name, mask in mine.items()} for mine in masks]


def completed(mask: Mask, of_all_heads: Sequence[Mask]) -> Mask:
    """Return `mask`, whole in the dimensions in which no two heads differ: there the support depends on the input.

    In a table of position biases the rows are distances, of which a few tokens use a few; the columns are heads. Where one
    dimension runs over both, a head has every n-th index.
    """
    if mask.index is None or len(of_all_heads) < 2 or mask.is_empty:
        return mask
    differing = {}
    for dim, indices in enumerate(mask.index):
        same = all(m.index is not None and index_sets.equal(m.index[dim], indices) for m in of_all_heads)
        if indices is not None and not same:
            differing[dim] = _every_nth(indices, mask.shape[dim], len(of_all_heads))
    return Mask.block(mask.shape, differing) if differing else mask


def _every_nth(indices: Tensor, size: int, num_heads: int) -> Tensor:
    """Return every n-th index up to the end where the indices of one of n heads are the first of these, else themselves."""
    first = int(indices[0])
    expected = first + num_heads * torch.arange(len(indices))
    if (
        len(indices) < 2
        or num_heads < 2
        or first >= num_heads
        or size % num_heads
        or not torch.equal(indices, expected)
    ):
        return indices
    return torch.arange(first, size, num_heads)
