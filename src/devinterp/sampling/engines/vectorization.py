"""Decide whether chains run as one computation: whether they can, fit into memory, give the same, and are faster so."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from devinterp.errors import InvalidInputError, first_line
from devinterp.models.masks.param_masks import ParamMasks
from devinterp.sampling.data.schedule import step_rows
from devinterp.sampling.engines.engine import Engine
from devinterp.sampling.engines.prefix_check import in_place_engine
from devinterp.sampling.engines.vectorized import VectorizedEngine
from devinterp.sampling.engines.weights import StackedWeights, borrowed
from devinterp.sampling.model_guard import unchanged
from devinterp.sampling.spec import RunSpec

MODES = ("auto", "sequential", "vectorized")

#: Above this many weights a chain keeps a processor busy by itself, and copies for all chains would cost memory.
_MAX_VECTORIZED_PARAMETERS = 2_000_000
#: Chains that would need more memory than this side by side, in bytes, run in several groups.
_HOST_BUDGET = 2 * 2**30
_TIMED_REPEATS = 3


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
        For the provenance.

    Raises
    ------
    InvalidInputError
        If `mode` is ``"vectorized"`` and the model cannot run so.
    """
    if mode not in MODES:
        raise InvalidInputError(f"`chains` (={mode!r}) must be one of {', '.join(map(repr, MODES))}.")
    if mode == "sequential":
        return 0, "sequential: asked for"
    if mode == "auto":
        if len(chains) < 2:
            return 0, "sequential: one chain"
        num = sum(p.numel() for p in spec.model.parameters())
        if num > _MAX_VECTORIZED_PARAMETERS:
            return 0, f"sequential: {num:,} parameters keep the processor busy"
    try:
        together = min(len(chains), max(1, _budget(spec.device) // _bytes_of_chain(spec, masks)))
        if mode == "auto" and together < 2:
            return 0, "sequential: two chains side by side take too much memory"
        ratio = _speed(spec, masks, chains[:together])
    except CannotVectorize as reason:
        if mode == "vectorized":
            raise InvalidInputError(f"`chains` (='vectorized'): {reason}; use 'sequential' or 'auto'.") from reason
        return 0, f"sequential: {reason}"
    memory = "" if together == len(chains) else f", {together} at a time for their memory"
    if mode == "vectorized":
        return together, f"vectorized: asked for{memory}"
    if ratio <= 1:
        return 0, f"sequential: side by side takes {1 / ratio:.2f} of the time"
    return together, f"vectorized: side by side takes {1 / ratio:.2f} of the time{memory}"


def _budget(device: torch.device) -> int:
    """Return how many bytes chains side by side may take."""
    return torch.cuda.get_device_properties(device).total_memory // 4 if device.type == "cuda" else _HOST_BUDGET


def _bytes_of_chain(spec: RunSpec, masks: ParamMasks) -> int:
    """Return about how many bytes one more chain takes in a step: what backward needs, and gradients of the same size."""
    stored: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        return tensor

    with unchanged(spec.model):
        alone = VectorizedEngine(spec, StackedWeights(spec.model, masks, 1))
        rows = step_rows(spec.settings, spec.num_rows, 0)[0]
        with saved_tensors_hooks(count, lambda tensor: tensor), _failures_named():
            alone.add_gradient([rows])
    return max(1, 2 * sum(stored.values()))


@contextmanager
def _failures_named() -> Iterator[None]:
    """Turn what torch raises where a model cannot run under vmap into `CannotVectorize`."""
    try:
        with warnings.catch_warnings():
            # torch warns where it must loop over the chains after all: then nothing is gained.
            warnings.simplefilter("error", UserWarning)
            yield
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, UserWarning) as error:
        raise CannotVectorize(f"the model does not run under vmap ({first_line(error)})") from error


def _speed(spec: RunSpec, masks: ParamMasks, chains: Sequence[int]) -> float:
    """Return how many times faster a step of all chains is side by side, after checking that it gives the same.

    Raises
    ------
    CannotVectorize
        If the model cannot be run under vmap, or gives other losses or gradients then.
    """
    shared = spec.settings.match_sampling_input_ids_across_chains
    if shared:
        rows = [step_rows(spec.settings, spec.num_rows, chains[0])[0]] * len(chains)
    else:
        rows = [step_rows(spec.settings, spec.num_rows, chain)[0] for chain in chains]
    with unchanged(spec.model):
        stacked = VectorizedEngine(spec, StackedWeights(spec.model, masks, len(chains)))
        _nudge(stacked, len(chains))
        with _failures_named():
            together = _gradient(stacked, rows)
        seconds_together = _time(lambda: _gradient(stacked, rows), spec.device)
    with borrowed(spec.model, masks) as weights:
        # It computes constant layers once; what it keeps of them is its own, and goes with it.
        single, _ = in_place_engine(replace(spec), weights)
        _nudge(single, 1)
        alone = _gradient(single, rows[:1])
        seconds_alone = _time(lambda: _gradient(single, rows[:1]), spec.device)
    steepest = max(float(gradient.abs().max()) for gradient in alone[1:])
    for n, (a, b) in enumerate(zip(alone, together, strict=True)):
        largest = float(torch.nan_to_num(a).abs().max())  # losses of padding are NaN
        # The gradient of a key's bias is zero but for rounding, which is relative to other gradients.
        atol = max(1e-5 * largest, 1e-6 * steepest * (n > 0))
        same = b if shared else b[:1]
        if not torch.allclose(a.expand_as(same), same, rtol=1e-3, atol=atol, equal_nan=True):
            raise CannotVectorize("losses or gradients differ under vmap")
    return seconds_alone * len(chains) / seconds_together


def _nudge(group: Engine, num_chains: int) -> None:
    """Move every chain by the same noise: at a minimum gradients are rounding errors, which cannot be compared."""
    seed, scale = group.spec.settings.init_seed, 0.01
    generators = [torch.Generator(group.spec.device).manual_seed(seed) for _ in range(num_chains)]
    group.weights.add(group.weights.noise(generators, scale))


def _gradient(group: Engine, rows: Sequence[np.ndarray]) -> list[Tensor]:
    losses, _ = group.add_gradient(rows)
    return [losses, *group.weights.gradients()]


def _time(function: Callable[[], Any], device: torch.device) -> float:
    best = float("inf")
    for _ in range(_TIMED_REPEATS):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
