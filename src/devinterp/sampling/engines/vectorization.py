"""Decide whether chains run as one computation: whether they can, fit into memory, give the same numbers, and save work.

Chains of several restrictions that sample alike elements (`alike`) are chains side by side like those of one. Running side by
side changes results in the last bits, so the decision must not depend on how busy a machine is: it is made from the operations
that a step takes, which are counted, and from fixed costs (`devinterp.sampling.engines.work`). The counts are recorded with
the decision. Only ``chains="fastest"`` uses a stopwatch.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from devinterp import arguments
from devinterp.errors import InvalidInputError
from devinterp.models.kept_attributes import attributes_kept
from devinterp.sampling.engines.engine import DATASET, Engine
from devinterp.sampling.engines.equivalence import Computed, tolerance_of, why_refused
from devinterp.sampling.engines.prefix_cache import SharedPrefix
from devinterp.sampling.engines.prefix_check import in_place_engine
from devinterp.sampling.engines.side_by_side import (
    Candidates,
    CannotVectorize,
    bytes_of_chain,
    no_loops,
    vectorized_engine,
)
from devinterp.sampling.engines.vectorized import VectorizedEngine
from devinterp.sampling.engines.weights import borrowed
from devinterp.sampling.engines.work import Cost, Work, cost_on, counted
from devinterp.sampling.model_guard import unchanged
from devinterp.sampling.spec import RunSpec

MODES = ("auto", "sequential", "vectorized", "fastest")

#: Above this many weights in the sampled parameters, copies for all chains would cost memory, and a chain keeps a processor
#: busy by itself.
_MAX_VECTORIZED_PARAMETERS = 2_000_000
#: Side by side the overhead of operations is shared, and nothing else is saved: where it is a smaller part of a step, it is not
#: worth a trial.
_MIN_OVERHEAD = 0.05
#: Chains that would need more memory than this side by side, in bytes, run in several batches.
_HOST_BUDGET = 2 * 2**30
_TIMED_REPEATS = 3


def num_together(spec: RunSpec, candidates: Candidates, mode: str, shared: SharedPrefix) -> tuple[int, str]:
    """Return how many chains to run as one computation, and why.

    Parameters
    ----------
    spec : RunSpec
        The run; its model must be at w0.
    candidates : Candidates
        The chains.
    mode : {"auto", "sequential", "vectorized", "fastest"}
        How, as for `devinterp.sampling.engines.plan.plan`.
    shared : SharedPrefix
        What restrictions share.

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
    arguments.word("chains", mode, MODES)
    if mode == "sequential":
        return 0, "sequential: asked for"
    try:
        alone = None
        if mode != "vectorized":
            reason = _why_not_tried(spec, candidates)
            if reason is None and mode == "auto":
                alone = _work_of_one(spec, candidates, shared)
                reason = _why_not_worth_it(alone, cost_on(spec.device))
            if reason is not None:
                return 0, f"sequential: {reason}"
        together = min(candidates.num, max(1, _budget(spec.device) // bytes_of_chain(spec, candidates, shared)))
        if mode != "vectorized" and together < 2:
            return 0, "sequential: two chains side by side take too much memory"
        trial = _try(spec, candidates.first(together), shared, alone, timed=mode == "fastest")
    except CannotVectorize as reason:
        if mode == "vectorized":
            raise InvalidInputError(f"`chains` (='vectorized'): {reason}; use 'sequential' or 'auto'.") from reason
        return 0, f"sequential: {reason}"
    memory = "" if together == candidates.num else f", {together} at a time for their memory"
    if mode == "vectorized":
        return together, f"vectorized: asked for{memory}"
    if not trial.pays:
        return 0, f"sequential: {trial.why}"
    return together, f"vectorized: {trial.why}{memory}"


def _why_not_tried(spec: RunSpec, candidates: Candidates) -> str | None:
    """Return why chains are not tried side by side, as far as that is known beforehand."""
    if candidates.num < 2:
        return "one chain"
    masks = spec.restrictions[candidates.restrictions[0]]
    num = sum(mask.numel() for mask in masks.values())
    if num > _MAX_VECTORIZED_PARAMETERS:
        return f"{num:,} parameters keep the processor busy"
    return None


def _why_not_worth_it(work: Work, cost: Cost) -> str | None:
    """Return why nothing is to be gained side by side where a chain alone takes this work."""
    if cost.overhead(work) < _MIN_OVERHEAD * cost.of(work):
        return f"a step of a chain takes {work}, which keep the processor busy"
    return None


def _work_of_one(spec: RunSpec, candidates: Candidates, shared: SharedPrefix) -> Work:
    with borrowed(spec.model, spec.restrictions[candidates.restrictions[0]]) as weights:
        single = in_place_engine(spec, weights, shared)
        rows = [spec.schedule.steps(candidates.chains[0])[0]]
        if single.prefix is not None and not single.prefix.has(DATASET, spec.rows.places(rows[0])):
            _computed(single, rows, slice(None))  # so that constant layers have been computed
        return counted(lambda: _computed(single, rows, slice(None)))[1]


def _budget(device: torch.device) -> int:
    """Return how many bytes chains side by side may take."""
    return torch.cuda.get_device_properties(device).total_memory // 4 if device.type == "cuda" else _HOST_BUDGET


@final
@dataclass(frozen=True)
class Trial:
    """Whether a step of all chains side by side costs less than one after the other, and how that came about."""

    pays: bool
    why: str


def _try(spec: RunSpec, candidates: Candidates, shared: SharedPrefix, alone: Work | None, *, timed: bool) -> Trial:
    """Compute a step both ways, compare the results and return which costs less.

    Parameters
    ----------
    spec, candidates, shared
        As for `num_together`.
    alone : Work or None
        What a step of one chain in the model takes; None where that does not matter.
    timed : bool
        Whether a stopwatch decides.

    Raises
    ------
    CannotVectorize
        If the model cannot be run under vmap, or gives other losses or gradients then.
    """
    rows = [spec.schedule.steps(chain)[0] for chain in candidates.chains]
    shared_rows = spec.settings.match_sampling_input_ids_across_chains
    # Else the first chain of each restriction.
    compared = slice(None) if shared_rows else slice(None, None, len(rows))
    work: list[Work] = []
    with unchanged(spec.model):
        stacked = vectorized_engine(spec, candidates, shared)
        stacked.remember(rows)
        _nudge(stacked)

        def fast() -> Computed:
            with attributes_kept(spec.model), no_loops():
                # Twice, and constant layers anew between: what a module keeps of the first time, and uses again, is a tensor
                # of all chains at once.
                _computed(stacked, rows, compared)
                stacked.remember(rows, anew=True)
                if alone is None:
                    computed = _computed(stacked, rows, compared)
                else:
                    computed, together = counted(lambda: _computed(stacked, rows, compared))
                    work.append(together)
                return Computed([*computed.losses, *_evaluated(stacked)], computed.gradients)

        def plain() -> Computed:
            num = len(rows) if shared_rows else 1
            parts, evaluated = [], []
            for name in candidates.restrictions:
                with borrowed(spec.model, spec.restrictions[name]) as weights:
                    single = in_place_engine(spec, weights, shared)
                    _nudge(single)
                    parts.append(_repeated(_computed(single, rows[:1], slice(None)), num))
                    if len(parts) == 1:
                        evaluated = _evaluated(single)
            joined = _joined(parts)
            return Computed([*joined.losses, *evaluated], joined.gradients)

        reason = why_refused(fast, plain, how="under vmap", tolerance=tolerance_of(spec.model))
        if reason is not None:
            raise CannotVectorize(reason)
        if timed:
            return _timed(spec, candidates, shared, stacked, rows)
    if alone is None:
        return Trial(True, "asked for")
    cost, num = cost_on(spec.device), candidates.num
    why = f"a step of {num} chains side by side takes {work[0]}; of each alone {alone}"
    return Trial(cost.of(work[0]) < cost.of(alone) * num, why)


def _evaluated(engine: Engine) -> list[Tensor]:
    """Return the losses of observables of the first chain."""
    return [losses[:1] for losses, _ in engine.evaluate_all().values()]


def _timed(
    spec: RunSpec,
    candidates: Candidates,
    shared: SharedPrefix,
    stacked: VectorizedEngine,
    rows: Sequence[np.ndarray],
) -> Trial:
    with attributes_kept(spec.model):
        together = _seconds(stacked, rows)
    with borrowed(spec.model, spec.restrictions[candidates.restrictions[0]]) as weights:
        alone = _seconds(in_place_engine(spec, weights, shared), rows[:1]) * candidates.num
    return Trial(together < alone, f"side by side takes {together / alone:.2f} of the time")


def _repeated(computed: Computed, num: int) -> Computed:
    """Return what one chain gives, of so many chains that are the same."""
    losses, gradients = ([t.expand(num, *t.shape[1:]) for t in part] for part in (computed.losses, computed.gradients))
    return Computed(losses, gradients)


def _joined(parts: Sequence[Computed]) -> Computed:
    """Return what the chains of several restrictions give, along the dimension of chains."""
    losses = [torch.cat(each) for each in zip(*(part.losses for part in parts), strict=True)]
    return Computed(losses, [torch.cat(each) for each in zip(*(part.gradients for part in parts), strict=True)])


def _nudge(engine: Engine) -> None:
    """Move every chain by the same noise: at a minimum gradients are rounding errors, which cannot be compared."""
    seed, scale = engine.spec.settings.init_seed, 0.01
    generators = [torch.Generator(engine.spec.device).manual_seed(seed) for _ in range(engine.num_chains)]
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
