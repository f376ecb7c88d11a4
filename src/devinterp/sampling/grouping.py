"""Decide which chains advance together, and set them up."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from devinterp.errors import InvalidInputError
from devinterp.models.masks import ParamMasks
from devinterp.sampling.groups import ChainGroup, SingleChain, VectorizedChains
from devinterp.sampling.order import step_rows
from devinterp.sampling.prefix import PrefixCache, find_prefix
from devinterp.sampling.problem import Problem
from devinterp.sampling.weights import InPlaceWeights, StackedWeights, borrowed, unchanged

MODES = ("auto", "sequential", "vectorized")

#: Above this many weights a chain keeps a processor busy by itself, and copies for all chains would cost memory.
_MAX_VECTORIZED_PARAMETERS = 2_000_000
_TIMED_REPEATS = 3


class CannotVectorize(Exception):  # noqa: N818  # an answer, not an error
    """Why chains of a model cannot run as one computation."""


@contextmanager
def grouped(
    problem: Problem, name: str, masks: ParamMasks, chains: Sequence[int], *, mode: str
) -> Iterator[Iterator[tuple[ChainGroup, Sequence[int]]]]:
    """Give the groups of chains of one restriction, to be run one after the other.

    The choice and its reason are entered in ``problem.paths``. Afterwards the model is as it was.

    Parameters
    ----------
    problem : Problem
        The run.
    name : str
        Of the restriction.
    masks : ParamMasks
        What moves under it.
    chains : sequence of int
        Chains to run.
    mode : {"auto", "sequential", "vectorized"}
        Whether to choose by a short timing, or not to.

    Raises
    ------
    InvalidInputError
        If `mode` is ``"vectorized"`` and the model cannot run so.
    """
    vectorized, why = choose(problem, masks, chains, mode)
    problem.paths[f"chains/{name}"] = why
    if vectorized:
        with unchanged(problem.model):
            yield iter([(VectorizedChains(problem, StackedWeights(problem.model, masks, len(chains))), chains)])
    else:
        with borrowed(problem.model, masks) as weights:
            group = single_chain(problem, weights)
            problem.paths[f"prefix/{name}"] = _check_prefix(problem, group)
            yield ((group, [chain]) for chain in chains)


def single_chain(problem: Problem, weights: InPlaceWeights) -> SingleChain:
    """Return a chain in the model, with the layers before the first moving one computed once for each row."""
    rows = problem.rows
    batch, attention_mask = rows.batch(rows.ids[:1])

    def run() -> Tensor:
        return problem.loss.losses(problem.model, batch, attention_mask)

    prefix = find_prefix(problem.model, dict.fromkeys(weights.names), run)
    return SingleChain(problem, weights, None if prefix is None else PrefixCache(prefix))


@torch.no_grad()
def _check_prefix(problem: Problem, group: SingleChain) -> str:
    """Compare with the plain path at weights moved by noise, so that what is wrongly taken for constant shows."""
    if group.prefix is None:
        return "nothing to reuse"
    generator = torch.Generator(problem.device).manual_seed(problem.settings.init_seed)
    scale = 0.01
    group.weights.add(group.weights.noise([generator], scale))
    try:
        return group.check_prefix()
    finally:
        group.weights.reset()


def choose(problem: Problem, masks: ParamMasks, chains: Sequence[int], mode: str) -> tuple[bool, str]:
    """Return whether chains run as one computation, and why."""
    if mode not in MODES:
        raise InvalidInputError(f"`chains` (={mode!r}) must be one of {', '.join(map(repr, MODES))}.")
    if mode == "sequential":
        return False, "sequential: asked for"
    if mode == "auto":
        if len(chains) < 2:
            return False, "sequential: one chain"
        num = sum(p.numel() for p in problem.model.parameters())
        if num > _MAX_VECTORIZED_PARAMETERS:
            return False, f"sequential: {num:,} parameters keep the processor busy"
    try:
        ratio = _compare(problem, masks, chains)
    except CannotVectorize as reason:
        if mode == "vectorized":
            raise InvalidInputError(f"`chains` (='vectorized'): {reason}; use 'sequential' or 'auto'.") from reason
        return False, f"sequential: {reason}"
    if mode == "vectorized":
        return True, "vectorized: asked for"
    word = "vectorized" if ratio > 1 else "sequential"
    return ratio > 1, f"{word}: side by side takes {1 / ratio:.2f} of the time"


def _compare(problem: Problem, masks: ParamMasks, chains: Sequence[int]) -> float:
    """Return how many times faster a step of all chains is side by side, after checking that it gives the same.

    Raises
    ------
    CannotVectorize
        If the model cannot be run under vmap, or gives other losses or gradients then.
    """
    rows = [step_rows(problem.settings, problem.num_rows, chain)[0] for chain in chains[:1]] * len(chains)
    with unchanged(problem.model):
        stacked = VectorizedChains(problem, StackedWeights(problem.model, masks, len(chains)))
        try:
            with warnings.catch_warnings():
                # torch warns where it must loop over the chains after all: then nothing is gained.
                warnings.simplefilter("error", UserWarning)
                together = _gradient(stacked, rows)
        except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, UserWarning) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise CannotVectorize(f"the model does not run under vmap ({lines[0][:100]})") from error
        seconds_together = _time(lambda: _gradient(stacked, rows), problem.device)
    with borrowed(problem.model, masks) as weights:
        single = SingleChain(problem, weights)
        alone = _gradient(single, rows[:1])
        seconds_alone = _time(lambda: _gradient(single, rows[:1]), problem.device)
    for a, b in zip(alone, together, strict=True):
        largest = float(torch.nan_to_num(a).abs().max())  # losses of padding are NaN
        if not torch.allclose(a.expand_as(b), b, rtol=1e-3, atol=1e-5 * largest, equal_nan=True):
            raise CannotVectorize("losses or gradients differ under vmap")
    return seconds_alone * len(chains) / seconds_together


def _gradient(group: ChainGroup, rows: Sequence[np.ndarray]) -> list[Tensor]:
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
