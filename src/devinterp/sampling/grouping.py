"""Decide which chains advance together, and set them up."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from devinterp.errors import InvalidInputError
from devinterp.models.masks import ParamMasks
from devinterp.sampling.groups import ChainGroup, SingleChain, VectorizedChains
from devinterp.sampling.order import step_rows
from devinterp.sampling.prefix import Prefix, PrefixCache, find_prefix
from devinterp.sampling.problem import Problem
from devinterp.sampling.weights import InPlaceWeights, StackedWeights, borrowed, unchanged

MODES = ("auto", "sequential", "vectorized")

#: Above this many weights a chain keeps a processor busy by itself, and copies for all chains would cost memory.
_MAX_VECTORIZED_PARAMETERS = 2_000_000
_TIMED_REPEATS = 3


class CannotVectorize(Exception):  # noqa: N818  # an answer, not an error
    """Why chains of a model cannot run as one computation."""


@dataclass(frozen=True)
class Group:
    """Chains of one restriction that advance together.

    Parameters
    ----------
    chains : tuple of int
        Which; one, unless they are vectorized.
    vectorized : bool
        Whether they run as one batched computation.
    why : str
        What decided that.
    """

    chains: tuple[int, ...]
    vectorized: bool
    why: str


def plan(problem: Problem, masks: ParamMasks, chains: Sequence[int], mode: str) -> list[Group]:
    """Return the groups in which chains of one restriction are to run.

    Parameters
    ----------
    problem : Problem
        The run.
    masks : ParamMasks
        What moves under the restriction.
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
    if vectorized:
        return [Group(tuple(chains), True, why)]
    return [Group((chain,), False, why) for chain in chains]


def set_up(
    problem: Problem, name: str, masks: ParamMasks, groups: Sequence[Group]
) -> Iterator[tuple[ChainGroup, Group]]:
    """Yield groups of chains of one restriction, one after the other, each ready to run.

    Close the generator when done with it: afterwards the model is as it was.

    Parameters
    ----------
    problem : Problem
        The run. How much of the model is reused is entered in ``problem.paths``.
    name : str
        Of the restriction.
    masks : ParamMasks
        What moves under it.
    groups : sequence of Group
        From `plan`.
    """
    for vectorized, members in groupby(groups, lambda group: group.vectorized):
        if vectorized:
            with unchanged(problem.model):
                for group in members:
                    weights = StackedWeights(problem.model, masks, len(group.chains))
                    yield VectorizedChains(problem, weights), group
        else:
            with borrowed(problem.model, masks) as borrowed_weights:
                single = single_chain(problem, borrowed_weights)
                problem.paths[f"prefix/{name}"] = _check_prefix(problem, single)
                for group in members:
                    if single.prefix is not None and not problem.settings.match_sampling_input_ids_across_chains:
                        # Other batches: what a row gives may depend on its neighbours in the last bits, and a chain
                        # must not depend on which chains ran before it.
                        single.prefix = PrefixCache(single.prefix.prefix)
                    yield single, group


def single_chain(problem: Problem, weights: InPlaceWeights) -> SingleChain:
    """Return a chain in the model, with the layers before the first moving one computed once for each row."""
    rows = problem.rows
    batch, attention_mask = rows.batch(rows.ids[:1])

    def run() -> Tensor:
        return problem.loss.losses(problem.model, batch, attention_mask)

    prefix = find_prefix(problem.model, dict.fromkeys(weights.names), run)
    return SingleChain(problem, weights, None if prefix is None else _cache(problem, prefix))


def _cache(problem: Problem, prefix: Prefix) -> PrefixCache:
    """Return what the restriction before kept of the same layers, or else nothing yet."""
    if not problem.kept or problem.kept[0].prefix != prefix:
        problem.kept[:] = [PrefixCache(prefix)]
    return problem.kept[0]


def _check_prefix(problem: Problem, group: SingleChain) -> str:
    """Compare with the plain path at weights moved by noise, so that what is wrongly taken for constant shows."""

    def move() -> None:
        generator = torch.Generator(problem.device).manual_seed(problem.settings.init_seed)
        group.weights.add(group.weights.noise([generator], 0.01))

    try:
        return group.check_prefix(move)
    finally:
        group.weights.reset()
        if group.prefix is None:
            problem.kept.clear()


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
    shared = problem.settings.match_sampling_input_ids_across_chains
    if shared:
        rows = [step_rows(problem.settings, problem.num_rows, chains[0])[0]] * len(chains)
    else:
        rows = [step_rows(problem.settings, problem.num_rows, chain)[0] for chain in chains]
    with unchanged(problem.model):
        stacked = VectorizedChains(problem, StackedWeights(problem.model, masks, len(chains)))
        _nudge(stacked, len(chains))
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
        _nudge(single, 1)
        alone = _gradient(single, rows[:1])
        seconds_alone = _time(lambda: _gradient(single, rows[:1]), problem.device)
    steepest = max(float(gradient.abs().max()) for gradient in alone[1:])
    for n, (a, b) in enumerate(zip(alone, together, strict=True)):
        largest = float(torch.nan_to_num(a).abs().max())  # losses of padding are NaN
        # The gradient of a key's bias is zero but for rounding, which is relative to other gradients.
        atol = max(1e-5 * largest, 1e-6 * steepest * (n > 0))
        same = b if shared else b[:1]
        if not torch.allclose(a.expand_as(same), same, rtol=1e-3, atol=atol, equal_nan=True):
            raise CannotVectorize("losses or gradients differ under vmap")
    return seconds_alone * len(chains) / seconds_together


def _nudge(group: ChainGroup, num_chains: int) -> None:
    """Move every chain by the same noise: at a minimum gradients are rounding errors, which cannot be compared."""
    seed, scale = group.problem.settings.init_seed, 0.01
    generators = [torch.Generator(group.problem.device).manual_seed(seed) for _ in range(num_chains)]
    group.weights.add(group.weights.noise(generators, scale))


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
