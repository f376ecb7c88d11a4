"""What is inside an MLP: experts, router and shared experts, or the hidden neurons of a dense one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from devinterp.models.masks.mask import Mask
from devinterp.models.structure.probe_heads import _output_dim, _run, probing_copy, random_call
from devinterp.models.structure.trace import Call, Trace, is_norm, is_projection
from devinterp.models.structure.types import Neurons

ROUTER = re.compile(r"router|gating|(^|\.)gate$|(^|\.)wg$", re.IGNORECASE)
Fits = dict[int, list[tuple[int, int]]]
Place = tuple[str, tuple[int, ...], int, int, int]


@dataclass
class Feedforward:
    """Parts of an MLP, by parameter name.

    Parameters
    ----------
    experts : list of dict
        Masks of each routed expert.
    router : set of str
        Parameters that choose the experts.
    neurons : Neurons or None
        Hidden neurons of a dense MLP.
    """

    experts: list[dict[str, Mask]] = field(default_factory=list)
    router: set[str] = field(default_factory=set)
    neurons: Neurons | None = None


def feedforward(model: nn.Module, paths: Sequence[str], seen: Trace, known: dict[object, Fits]) -> Feedforward:
    """Return what is inside the MLP made of the modules at `paths`; `known` are the neurons of MLPs of other layers."""
    modules = {name: module for path in paths for name, module in _inside(model, path)}
    found = Feedforward(experts=_listed_experts(modules) or _stacked_experts(modules))
    if found.experts:
        names = {name for expert in found.experts for name in expert}
        found.router = _router(modules, len(found.experts), names)
        return found
    routed = _blocked_experts(modules)
    if routed is not None:
        found.experts, found.router = routed
        return found
    found.neurons = _neurons(model, modules, paths, seen, known)
    return found


def _inside(model: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    root = model.get_submodule(path)
    return [(f"{path}.{name}" if name else path, module) for name, module in root.named_modules()]


def _whole(path: str, module: nn.Module) -> dict[str, Mask]:
    return {f"{path}.{name}": Mask.whole(p.shape) for name, p in module.named_parameters()}


def _listed_experts(modules: Mapping[str, nn.Module]) -> list[dict[str, Mask]]:
    """Experts that are elements of a list of like modules."""
    for path, module in modules.items():
        if isinstance(module, nn.ModuleList | nn.ModuleDict) and "expert" in path.rpartition(".")[2]:
            elements = list(module.named_children())
            if len(elements) > 1 and "shared" not in path.rpartition(".")[2]:
                return [_whole(f"{path}.{name}", element) for name, element in elements]
    return []


def _stacked_experts(modules: Mapping[str, nn.Module]) -> list[dict[str, Mask]]:
    """Experts that are slices of three-dimensional parameters, with the biases beside them."""
    stacks: dict[str, nn.Parameter] = {}
    for path, module in modules.items():
        own = {f"{path}.{name}": p for name, p in module.named_parameters(recurse=False)}
        deep = [p for p in own.values() if p.ndim == 3 and p.shape[0] > 1 and not isinstance(module, nn.Conv1d)]
        if deep:
            stacks.update({name: p for name, p in own.items() if p.ndim >= 2 and p.shape[0] > 1})
    if not stacks:
        return []
    # Experts that do nothing (LongCat) have rows in some of the parameters only.
    num_experts = min(p.shape[0] for p in stacks.values())
    return [{name: Mask.block(p.shape, {0: [e]}) for name, p in stacks.items()} for e in range(num_experts)]


def _router(modules: Mapping[str, nn.Module], num_experts: int, experts: set[str]) -> set[str]:
    """Return parameters of the modules named after routing that have an output per expert."""
    found: set[str] = set()
    for path, module in modules.items():
        names = {f"{path}.{name}": p for name, p in module.named_parameters()}
        routes = ROUTER.search(path.rpartition(".")[2]) or ROUTER.search(type(module).__name__)
        chooses = any(p.ndim == 2 and p.shape[0] >= num_experts for p in names.values())
        if routes and chooses and not set(names) & experts:
            found |= set(names)
    return found


def _blocked_experts(modules: Mapping[str, nn.Module]) -> tuple[list[dict[str, Mask]], set[str]] | None:
    """Experts that are blocks of rows of one matrix: as many as the router has outputs."""
    routers = [m for path, m in modules.items() if ROUTER.search(path.rpartition(".")[2]) and not list(m.children())]
    blocks = [path for path in modules if path.rpartition(".")[2] == "experts"]
    if not routers or not blocks:
        return None
    num_experts = min((p.shape[0] for m in routers for p in m.parameters() if p.ndim == 2), default=0)
    if num_experts < 2:
        return None
    rows = {f"{blocks[0]}.{n}": p for n, p in modules[blocks[0]].named_parameters() if p.shape[0] % num_experts == 0}
    experts = []
    for expert in range(num_experts):
        sizes = {name: p.shape[0] // num_experts for name, p in rows.items()}
        experts.append(
            {n: Mask.block(p.shape, {0: range(expert * sizes[n], (expert + 1) * sizes[n])}) for n, p in rows.items()}
        )
    return experts, _router(modules, num_experts, set(rows))


def _neurons(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    paths: Sequence[str],
    seen: Trace,
    known: dict[object, Fits],
) -> Neurons | None:
    """Find the hidden neurons of a dense MLP: which outputs of its first projections meet in which input of its last."""
    order = [path for path in seen.calls if path in modules]
    projections = [path for path in order if is_projection(modules[path])]
    if len(projections) < 2 or (len(paths) > 1 and len(projections) > 2) or any("adapter" in path for path in modules):
        return None
    down = projections[-1]
    matrix = next(p for p in modules[down].parameters() if p.ndim >= 2)
    out = _output_dim(modules[down], matrix, torch.empty(seen.widths.get(down, 0)))
    if out is None or matrix.ndim != 2:
        return None
    size = matrix.shape[1 - out]
    # By what the modules are and where they stand, whatever the layer is called.
    layout = repr([(path.removeprefix(paths[0]), repr(modules[path])) for path in projections])
    if layout not in known:
        found = _meeting(model, paths, projections, down, size, seen.calls)
        known[layout] = {projections.index(path): fits for path, fits in found.items()}
    columns = {projections[i]: fits for i, fits in known[layout].items()}
    weight = next(name for name, p in modules[down].named_parameters() if p is matrix)
    places: list[Place] = [(f"{down}.{weight}", tuple(matrix.shape), 1 - out, 0, 1)]
    for path, fits in columns.items():
        for name, parameter in modules[path].named_parameters(recurse=False):
            dim = _output_dim(modules[path], parameter, torch.empty(seen.widths[path]))
            if dim is not None:
                places += [(f"{path}.{name}", tuple(parameter.shape), dim, offset, stride) for offset, stride in fits]
    between = order[order.index(projections[0]) : order.index(down)]
    for path in between:
        if is_norm(modules[path]):
            own = modules[path].named_parameters(recurse=False)
            places += [(f"{path}.{name}", (size,), 0, 0, 1) for name, p in own if p.shape == (size,)]
    return Neurons(size, tuple(places)) if columns else None


def _meeting(
    model: nn.Module,
    paths: Sequence[str],
    projections: Sequence[str],
    down: str,
    size: int,
    calls: Mapping[str, Call],
) -> dict[str, list[tuple[int, int]]]:
    """Return, by projection, offset and stride of the outputs that belong to neuron 0, 1, 2 ..."""
    root = paths[0] if len(paths) == 1 else ""
    if root not in calls or root == down:
        # Two modules in a row (BERT): there is nothing but an activation between them.
        widths = {p: _width(model.get_submodule(p)) for p in projections[:-1]}
        return {path: [(0, 1)] for path, width in widths.items() if width == size}
    twin = probing_copy(model.get_submodule(root))
    args, kwargs = random_call(calls[root])
    # Enough tokens that no neuron is off for all of them.
    wide = torch.randn(1, 64, args[0].shape[-1] if args else 1, generator=torch.Generator().manual_seed(0))
    run = _run(twin, ((wide, *args[1:]), kwargs))
    inner = {path[len(root) + 1 :]: path for path in projections}
    cut = run.inputs[down[len(root) + 1 :]].reshape(-1, size)
    found: dict[str, list[tuple[int, int]]] = {}
    for name, path in inner.items():
        if path == down or name not in run.outputs:
            continue
        hits = [_hits(cut[:, n], run.outputs[name]) for n in (0, 1, size // 2, size - 1)]
        if size < 2 or not hits[0] or len({len(hit) for hit in hits}) != 1:
            continue
        fits = [(first, second - first) for first, second in zip(hits[0], hits[1], strict=True)]
        ends = [[offset + stride * n for offset, stride in fits] for n in (size // 2, size - 1)]
        if ends == hits[2:]:
            found[path] = fits
    return found


def _hits(neuron: Tensor, out: Tensor) -> list[int]:
    if not out.requires_grad:
        return []
    grad = torch.autograd.grad(neuron.sum(), out, retain_graph=True, allow_unused=True)[0]
    if grad is None:
        return []
    return [int(i) for i in (grad != 0).flatten(0, -2).any(0).nonzero().flatten()]


def _width(module: nn.Module) -> int:
    return max(p.shape[1 if type(module).__name__ == "Conv1D" else 0] for p in module.parameters() if p.ndim == 2)
