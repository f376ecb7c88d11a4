"""Decide whether chains run as one computation: whether they can, fit into memory, give the same numbers, and save work.

Running side by side changes results in the last bits, so the decision must not depend on how busy a machine is: it is made
from the operations that a step takes, which are counted, and from fixed costs (`COSTS`). The counts are recorded with the
decision. Only ``chains="fastest"`` uses a stopwatch.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from devinterp.errors import InvalidInputError, first_line
from devinterp.models.masks import ParamMasks
from devinterp.sampling.engines.engine import Engine
from devinterp.sampling.engines.equivalence import Computed, tolerance_of, why_refused
from devinterp.sampling.engines.prefix_cache import SharedPrefix
from devinterp.sampling.engines.prefix_check import in_place_engine
from devinterp.sampling.engines.vectorized import VectorizedEngine
from devinterp.sampling.engines.weights import StackedWeights, borrowed
from devinterp.sampling.model_guard import unchanged
from devinterp.sampling.spec import RunSpec

MODES = ("auto", "sequential", "vectorized", "fastest")

#: Above this many weights a chain keeps a processor busy by itself, and copies for all chains would cost memory.
_MAX_VECTORIZED_PARAMETERS = 2_000_000
#: Chains that would need more memory than this side by side, in bytes, run in several batches.
_HOST_BUDGET = 2 * 2**30
_TIMED_REPEATS = 3


@final
@dataclass(frozen=True)
class Cost:
    """What work costs on a kind of device: only the ratios matter, and only roughly.

    Parameters
    ----------
    operation : float
        Seconds of each tensor operation, whatever its size.
    flop, element : float
        Seconds of each floating-point operation of matrix products, and of each element that other operations write.
    """

    operation: float
    flop: float
    element: float

    def of(self, work: Work) -> float:
        """Return the seconds that some work is taken to need."""
        return work.operations * self.operation + work.flops * self.flop + work.elements * self.element


#: Rounded from timings (docs/performance.md): two cores of a server, and an H100.
COSTS = {"cpu": Cost(8e-6, 5e-11, 5e-10), "cuda": Cost(1.2e-5, 3e-14, 1e-12)}


class CannotVectorize(Exception):  # noqa: N818  # an answer, not an error
    """Why chains of a model cannot run as one computation."""


def num_together(spec: RunSpec, masks: ParamMasks, chains: Sequence[int], mode: str) -> tuple[int, str]:
    """Return how many chains to run as one computation, and why.

    Parameters
    ----------
    spec, masks, chains, mode
        As for `devinterp.sampling.engines.plan.plan`.

    Returns
    -------
    num : int
        At most so many; 0 for one after the other in the model.
    why : str
        For the provenance: what decided, with its inputs.

    Raises
    ------
    InvalidInputError
        If `mode` is ``"vectorized"`` and the model cannot run so.
    """
    if mode not in MODES:
        raise InvalidInputError(f"`chains` (={mode!r}) must be one of {', '.join(map(repr, MODES))}.")
    if mode == "sequential":
        return 0, "sequential: asked for"
    if mode != "vectorized":
        if len(chains) < 2:
            return 0, "sequential: one chain"
        num = sum(p.numel() for p in spec.model.parameters())
        if num > _MAX_VECTORIZED_PARAMETERS:
            return 0, f"sequential: {num:,} parameters keep the processor busy"
    try:
        together = min(len(chains), max(1, _budget(spec.device) // bytes_of_chain(spec, masks)))
        if mode != "vectorized" and together < 2:
            return 0, "sequential: two chains side by side take too much memory"
        trial = _try(spec, masks, chains[:together], timed=mode == "fastest")
    except CannotVectorize as reason:
        if mode == "vectorized":
            raise InvalidInputError(f"`chains` (='vectorized'): {reason}; use 'sequential' or 'auto'.") from reason
        return 0, f"sequential: {reason}"
    memory = "" if together == len(chains) else f", {together} at a time for their memory"
    if mode == "vectorized":
        return together, f"vectorized: asked for{memory}"
    if trial.side_by_side >= trial.one_by_one:
        return 0, f"sequential: {trial.why}"
    return together, f"vectorized: {trial.why}{memory}"


def _budget(device: torch.device) -> int:
    """Return how many bytes chains side by side may take."""
    return torch.cuda.get_device_properties(device).total_memory // 4 if device.type == "cuda" else _HOST_BUDGET


def bytes_of_chain(spec: RunSpec, masks: ParamMasks) -> int:
    """Return about how many bytes one more chain takes in a step: what backward needs, and gradients of the same size."""
    storages: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with unchanged(spec.model):
        alone = VectorizedEngine(spec, StackedWeights(spec.model, masks, 1))
        with saved_tensors_hooks(count, lambda tensor: tensor), _failures_named():
            alone.add_gradient([spec.schedule.steps(0)[0]])
    return max(1, 2 * sum(storages.values()))


@contextmanager
def _failures_named() -> Iterator[None]:
    """Turn what torch raises where a model cannot run under vmap into `CannotVectorize`."""
    try:
        with _no_loops():
            yield
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, UserWarning) as error:
        raise CannotVectorize(f"the model does not run under vmap ({first_line(error)})") from error


@contextmanager
def _no_loops() -> Iterator[None]:
    """Raise where torch warns that it must loop over the chains after all: then nothing is gained."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@final
@dataclass(frozen=True)
class Trial:
    """Costs of a step of all chains, side by side and one after the other, and how they came about."""

    side_by_side: float
    one_by_one: float
    why: str


def _try(spec: RunSpec, masks: ParamMasks, chains: Sequence[int], *, timed: bool) -> Trial:
    """Compute a step both ways, compare the results and return what each costs.

    Raises
    ------
    CannotVectorize
        If the model cannot be run under vmap, or gives other losses or gradients then.
    """
    rows = [spec.schedule.steps(chain)[0] for chain in chains]
    shared = spec.settings.match_sampling_input_ids_across_chains
    with borrowed(spec.model, masks) as weights:
        stacked = VectorizedEngine(spec, StackedWeights(spec.model, masks, len(chains)))
        single = in_place_engine(spec, weights, SharedPrefix())  # whose constant layers are computed once
        _nudge(stacked, len(chains))
        _nudge(single, 1)

        def fast() -> Computed:
            with _no_loops():
                # Twice: what a module keeps of the first time, and uses again, is a tensor of all chains at once.
                _computed(stacked, rows, slice(None))
                return _computed(stacked, rows, slice(None) if shared else slice(1))

        def plain() -> Computed:
            computed = _computed(single, rows[:1], slice(None))
            num = len(chains) if shared else 1
            losses, gradients = (
                [t.expand(num, *t.shape[1:]) for t in part] for part in (computed.losses, computed.gradients)
            )
            return Computed(losses, gradients)

        reason = why_refused(fast, plain, how="under vmap", tolerance=tolerance_of(spec.model))
        if reason is not None:
            raise CannotVectorize(reason)
        if timed:
            together, alone = _seconds(stacked, rows), _seconds(single, rows[:1]) * len(chains)
            return Trial(together, alone, f"side by side takes {together / alone:.2f} of the time")
        cost, together_work, alone_work = _cost(spec.device), count_work(stacked, rows), count_work(single, rows[:1])
        return Trial(
            cost.of(together_work),
            cost.of(alone_work) * len(chains),
            f"a step of {len(chains)} chains side by side takes {together_work}; of each alone {alone_work}",
        )


def _cost(device: torch.device) -> Cost:
    return COSTS["cpu" if device.type == "cpu" else "cuda"]


def _nudge(engine: Engine, num_chains: int) -> None:
    """Move every chain by the same noise: at a minimum gradients are rounding errors, which cannot be compared."""
    seed, scale = engine.spec.settings.init_seed, 0.01
    generators = [torch.Generator(engine.spec.device).manual_seed(seed) for _ in range(num_chains)]
    engine.weights.add(engine.weights.noise(generators, scale))


def _computed(engine: Engine, rows: Sequence[np.ndarray], chains: slice) -> Computed:
    losses, _ = engine.add_gradient(rows)
    return Computed([losses[chains]], [gradient[chains] for gradient in engine.weights.gradients()])


def _seconds(engine: Engine, rows: Sequence[np.ndarray]) -> float:
    """Return the shortest of a few timed gradients, in seconds."""
    device, best = engine.spec.device, float("inf")
    for _ in range(_TIMED_REPEATS):
        start = time.perf_counter()
        _computed(engine, rows, slice(None))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best


@final
@dataclass(frozen=True)
class Work:
    """What a gradient takes: tensor operations, floating-point operations of matrix products, elements written by others."""

    operations: int
    flops: int
    elements: int

    def __str__(self) -> str:
        return f"{self.operations:,} operations, {self.flops:.3g} flops and {self.elements:.3g} elements"


def count_work(engine: Engine, rows: Sequence[np.ndarray]) -> Work:
    """Return the work of one gradient, counted while it is computed; the same on any machine and under any load."""
    with _Counter() as counter:
        _computed(engine, rows, slice(None))
    return Work(counter.operations, counter.flops, counter.elements)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that torch dispatches."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = self.flops = self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.operations += 1
        flops: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
        if flops is not None:
            self.flops += int(flops(*args, **(kwargs or {}), out_val=output))
        elif isinstance(output, Tensor) and not func.is_view:
            self.elements += output.numel()
        return output
