"""The parts of each head (queries, keys, values, gates, output columns), out of the supports of all heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from devinterp.models.masks.mask import Mask
from devinterp.models.structure.head_supports import Support, completed, head_supports, output_columns
from devinterp.models.structure.module_kinds import is_projection, output_dim
from devinterp.models.structure.probing_run import ProbingRun, depends, probing_run, random_sum
from devinterp.models.structure.trace import Call

Parts = dict[str, dict[str, Mask]]


@dataclass(frozen=True)
class Heads:
    """The heads of one attention, with parameter names relative to its module.

    Parameters
    ----------
    parts : list of dict
        Masks of each head, by part and parameter.
    groups : list of int
        Key/value head of each head.
    """

    parts: list[Parts]
    groups: list[int]


def output_labels(twin: nn.Module, call: Call, run: ProbingRun, output: str) -> dict[str, dict[str, Tensor]]:
    """Return, by projection, which of its outputs are queries, keys, values or gates.

    The result for the last query depends on queries and gates of that token only, on keys and values of others too; on
    values and gates it still depends when no gradient passes through the attention weights.
    """
    labels: dict[str, dict[str, Tensor]] = {}
    with_weights = _reached_outputs(run, output)
    without_weights = _reached_outputs(probing_run(twin, call, detach_weights=True), output)
    for path, (now, earlier) in with_weights.items():
        open_now, open_earlier = without_weights.get(path, (torch.zeros_like(now), torch.zeros_like(earlier)))
        value, gate = open_earlier, open_now & ~open_earlier
        key = earlier & ~value & ~gate
        labels[path] = {"q": now & ~earlier & ~gate & ~value, "k": key, "v": value, "gate": gate}
    return labels


def _reached_outputs(run: ProbingRun, output: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Return, by module, the outputs that the last query's result depends on: at its own token, at others."""
    last = run.inputs[output].reshape(run.num_queries, -1)[-1]
    if not last.requires_grad:
        return {}
    paths = [path for path, out in run.outputs.items() if out.requires_grad]
    sources = [run.outputs[path] for path in paths]
    grads = torch.autograd.grad(random_sum(last), sources, retain_graph=True, allow_unused=True)
    reached = {}
    for path, grad in zip(paths, grads, strict=True):
        if grad is not None and grad.ndim:
            nonzero = (grad != 0).reshape(-1, grad.shape[-1])
            reached[path] = (nonzero.any(0), nonzero[:-1].any(0))
    return reached


def assemble_heads(
    twin: nn.Module,
    run: ProbingRun,
    call: Call,
    output: str,
    supports: list[Support],
    labels: dict[str, dict[str, Tensor]],
) -> Heads:
    """Return the heads that have these supports, in parts.

    A head has the weights that not all heads depend on, and those that it reads through no further projection: key and
    value rows that all heads read (multi-query attention) belong to each head, low-rank projections and norms that all
    share belong to none.
    """
    modules, parameters = dict(twin.named_modules()), dict(twin.named_parameters())
    direct = head_supports(twin, probing_run(twin, call, only_projection=output), output, len(supports))
    # Adapters beside the output projection read the heads as it does.
    readers = [output, *_reading_the_same(run, modules, output)]
    columns = {path: output_columns(modules[path], run.calls[path], len(supports), run.num_queries) for path in readers}
    projections = [path for path in run.outputs if path != output and is_projection(modules[path])]
    last = {
        path
        for path in projections
        if _has_one_argument(run.calls[path])
        and not any(depends(run.inputs[other], run.outputs[path]) for other in projections if other != path)
    }
    parts: list[Parts] = []
    for head, support in enumerate(supports):
        mine: Parts = {}
        for name in support:
            path = name.rpartition(".")[0]
            if path in readers:
                continue
            mask = _own_weights(name, head, supports, keep_shared=False)
            if name in direct[head]:
                mask = mask | _own_weights(name, head, direct, keep_shared=path in last)
            out = run.outputs.get(path)
            dim = output_dim(modules[path], parameters[name], out.shape[-1] if out is not None and out.ndim else None)
            for part, part_mask in _by_label(mask, dim, labels.get(path) if path in projections else None).items():
                if not part_mask.is_empty:
                    mine.setdefault(part, {})[name] = part_mask
        mine["o"] = {f"{path}.{name}": mask for path in readers for name, mask in columns[path][head].items()}
        parts.append(mine)
    return Heads(parts, _groups(parts))


def _reading_the_same(run: ProbingRun, modules: dict[str, nn.Module], output: str) -> list[str]:
    """Return the other projections that are given what the output projection is, value for value."""
    given = run.inputs[output]
    return [
        path
        for path, other in run.inputs.items()
        if path != output and path not in run.before and is_projection(modules[path]) and _is_same(other, given)
    ]


def _is_same(other: Tensor, given: Tensor) -> bool:
    return other is given or (other.shape == given.shape and torch.equal(other, given))


def _has_one_argument(call: Call) -> bool:
    """Say whether a projection was called on hidden states alone; tables of relative positions are not."""
    return len(call[0]) + len(call[1]) == 1


def _own_weights(name: str, head: int, supports: Sequence[Support], keep_shared: bool) -> Mask:
    """Return the elements of a parameter that one head depends on, with or without those that all heads depend on."""
    masks = [support[name] for support in supports if name in support]
    mask = supports[head][name]
    if not keep_shared and len(masks) == len(supports):
        shared = masks[0]
        for other in masks[1:]:
            shared = shared & other
        mask = mask - shared
    return completed(mask, masks)


def _by_label(mask: Mask, dim: int | None, labels: dict[str, Tensor] | None) -> dict[str, Mask]:
    """Return `mask` by part, following the labels of the outputs along `dim`."""
    if labels is None or dim is None:
        return {"other": mask}
    parts = {part: mask & Mask.block(mask.shape, {dim: outputs.nonzero()}) for part, outputs in labels.items()}
    for part in parts.values():
        mask = mask - part
    return {**parts, "other": mask}


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
