"""The parts of an MLP: experts, router and shared experts, or the hidden neurons of a dense one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from devinterp.models.masks.mask import Mask
from devinterp.models.structure.module_kinds import is_norm, is_projection, output_dim
from devinterp.models.structure.probing_run import probing_copy, probing_run, random_call
from devinterp.models.structure.trace import Call, Trace
from devinterp.models.structure.types import NeuronPlace, Neurons

ROUTER = re.compile(r"router|gating|(^|\.)gate$|(^|\.)wg$", re.IGNORECASE)

Strides = list[tuple[int, int]]
"""Offset and stride of each run of a projection's outputs that belong to neuron 0, 1, 2 ..."""


@dataclass
class MLPParts:
    """The parts of an MLP, by parameter name.

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


def mlp_parts(
    model: nn.Module, paths: Sequence[str], trace: Trace, known: dict[object, dict[int, Strides]]
) -> MLPParts:
    """Return the parts of the MLP made of the modules at `paths`.

    `known` holds the neurons of MLPs that are built alike, by projection, and is added to.
    """
    modules = {name: module for path in paths for name, module in _inside(model, path)}
    experts = _listed_experts(modules) or _stacked_experts(modules)
    if experts:
        return MLPParts(experts, _router(modules, len(experts), {name for expert in experts for name in expert}))
    experts, router = _blocked_experts(modules)
    if experts:
        return MLPParts(experts, router)
    return MLPParts(neurons=_neurons(model, modules, paths, trace, known))


def _inside(model: nn.Module, path: str) -> list[tuple[str, nn.Module]]:
    root = model.get_submodule(path)
    return [(f"{path}.{name}" if name else path, module) for name, module in root.named_modules()]


def _listed_experts(modules: Mapping[str, nn.Module]) -> list[dict[str, Mask]]:
    """Return experts that are elements of a list of modules."""
    for path, module in modules.items():
        name = path.rpartition(".")[2]
        if isinstance(module, nn.ModuleList | nn.ModuleDict) and "expert" in name and "shared" not in name:
            elements = {f"{path}.{key}": dict(element.named_parameters()) for key, element in module.named_children()}
            if len(elements) > 1:
                return [{f"{e}.{n}": Mask.whole(p.shape) for n, p in own.items()} for e, own in elements.items()]
    return []


def _stacked_experts(modules: Mapping[str, nn.Module]) -> list[dict[str, Mask]]:
    """Return experts that are slices of three-dimensional parameters, with the biases beside them."""
    stacks: dict[str, nn.Parameter] = {}
    for path, module in modules.items():
        own = {f"{path}.{name}": p for name, p in module.named_parameters(recurse=False)}
        deep = [p for p in own.values() if p.ndim == 3 and p.shape[0] > 1 and not isinstance(module, nn.Conv1d)]
        if deep:
            stacks.update({name: p for name, p in own.items() if p.ndim >= 2 and p.shape[0] > 1})
    # Experts that do nothing (LongCat) have rows in some of the parameters only.
    num_experts = min((p.shape[0] for p in stacks.values()), default=0)
    return [{name: Mask.block(p.shape, {0: [e]}) for name, p in stacks.items()} for e in range(num_experts)]


def _router(modules: Mapping[str, nn.Module], num_experts: int, experts: set[str]) -> set[str]:
    """Return parameters of the modules named after routing that have an output per expert."""
    router: set[str] = set()
    for path, module in modules.items():
        parameters = {f"{path}.{name}": p for name, p in module.named_parameters()}
        named = ROUTER.search(path.rpartition(".")[2]) or ROUTER.search(type(module).__name__)
        chooses = any(p.ndim == 2 and p.shape[0] >= num_experts for p in parameters.values())
        if named and chooses and not set(parameters) & experts:
            router |= set(parameters)
    return router


def _blocked_experts(modules: Mapping[str, nn.Module]) -> tuple[list[dict[str, Mask]], set[str]]:
    """Return experts that are blocks of rows of one matrix, as many as the router has outputs, and the router."""
    routers = [m for path, m in modules.items() if ROUTER.search(path.rpartition(".")[2]) and not list(m.children())]
    blocks = [path for path in modules if path.rpartition(".")[2] == "experts"]
    num_experts = min((p.shape[0] for m in routers for p in m.parameters() if p.ndim == 2), default=0)
    if not blocks or num_experts < 2:
        return [], set()
    owned = {f"{blocks[0]}.{n}": p for n, p in modules[blocks[0]].named_parameters() if p.shape[0] % num_experts == 0}
    sizes = {name: p.shape[0] // num_experts for name, p in owned.items()}
    experts = [
        {n: Mask.block(p.shape, {0: range(e * sizes[n], (e + 1) * sizes[n])}) for n, p in owned.items()}
        for e in range(num_experts)
    ]
    return experts, _router(modules, num_experts, set(owned))


def _neurons(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    paths: Sequence[str],
    trace: Trace,
    known: dict[object, dict[int, Strides]],
) -> Neurons | None:
    """Return the hidden neurons of a dense MLP: the outputs of its first projections that one input of its last reads."""
    order = [path for path in trace.calls if path in modules]
    projections = [path for path in order if is_projection(modules[path])]
    if len(projections) < 2 or (len(paths) > 1 and len(projections) > 2) or any("adapter" in path for path in modules):
        return None
    down = projections[-1]
    weight, matrix = next((name, p) for name, p in modules[down].named_parameters() if p.ndim >= 2)
    out = output_dim(modules[down], matrix, trace.widths.get(down))
    if out is None:
        return None
    size = matrix.shape[1 - out]
    # By what the modules are and where in the MLP they stand, whatever the layer is called.
    layout = repr([(path.removeprefix(paths[0]), repr(modules[path])) for path in projections])
    if layout not in known:
        strides = _strides(model, paths, projections, size, trace.calls)
        known[layout] = {projections.index(path): runs for path, runs in strides.items()}
    places: list[NeuronPlace] = [(f"{down}.{weight}", tuple(matrix.shape), 1 - out, 0, 1)]
    for path, runs in ((projections[i], runs) for i, runs in known[layout].items()):
        for name, parameter in modules[path].named_parameters(recurse=False):
            dim = output_dim(modules[path], parameter, trace.widths[path])
            if dim is not None:
                places += [(f"{path}.{name}", tuple(parameter.shape), dim, offset, stride) for offset, stride in runs]
    for path in order[order.index(projections[0]) : order.index(down)]:
        if is_norm(modules[path]):
            own = modules[path].named_parameters(recurse=False)
            places += [(f"{path}.{name}", (size,), 0, 0, 1) for name, p in own if p.shape == (size,)]
    return Neurons(size, tuple(places)) if known[layout] else None


def _strides(
    model: nn.Module, paths: Sequence[str], projections: Sequence[str], size: int, calls: Mapping[str, Call]
) -> dict[str, Strides]:
    """Return, by projection, offsets and strides of the outputs that belong to the `size` neurons."""
    down, root = projections[-1], paths[0] if len(paths) == 1 else ""
    if root not in calls or root == down:
        # Two modules in a row (BERT): there is nothing but an activation between them.
        widths = {path: _width(model.get_submodule(path)) for path in projections[:-1]}
        return {path: [(0, 1)] for path, width in widths.items() if width == size}
    args, kwargs = random_call(calls[root])
    # Enough tokens that no neuron is off for all of them.
    hidden = torch.randn(1, 64, args[0].shape[-1] if args else 1, generator=torch.Generator().manual_seed(0))
    run = probing_run(probing_copy(model.get_submodule(root)), ((hidden, *args[1:]), kwargs))
    inputs = run.inputs[down.removeprefix(f"{root}.")].reshape(-1, size)
    strides: dict[str, Strides] = {}
    for path in projections[:-1]:
        out = run.outputs.get(path.removeprefix(f"{root}."))
        if out is None or size < 2:
            continue
        first, second, *others = (_outputs_read(inputs[:, n], out) for n in (0, 1, size // 2, size - 1))
        if not first or len({len(outputs) for outputs in (first, second, *others)}) != 1:
            continue
        runs = [(offset, following - offset) for offset, following in zip(first, second, strict=True)]
        if others == [[offset + stride * n for offset, stride in runs] for n in (size // 2, size - 1)]:
            strides[path] = runs
    return strides


def _outputs_read(neuron: Tensor, out: Tensor) -> list[int]:
    """Return the indices of the outputs that a neuron depends on."""
    if not out.requires_grad:
        return []
    grad = torch.autograd.grad(neuron.sum(), out, retain_graph=True, allow_unused=True)[0]
    if grad is None:
        return []
    return [int(i) for i in (grad != 0).flatten(0, -2).any(0).nonzero().flatten()]


def _width(module: nn.Module) -> int:
    return max(p.shape[1 if type(module).__name__ == "Conv1D" else 0] for p in module.parameters() if p.ndim == 2)
