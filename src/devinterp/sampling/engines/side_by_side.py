"""Chains side by side: which, their engine, and how much memory one of them takes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import final

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from devinterp.errors import first_line
from devinterp.sampling.engines.prefix_cache import PrefixCache, SharedPrefix
from devinterp.sampling.engines.prefix_check import decide_reuse
from devinterp.sampling.engines.stacked_weights import StackedWeights
from devinterp.sampling.engines.vectorized import VectorizedEngine
from devinterp.sampling.model_guard import unchanged
from devinterp.sampling.spec import RunSpec


class CannotVectorize(Exception):  # noqa: N818  # an answer, not an error
    """Why chains of a model cannot run as one computation."""


@final
@dataclass(frozen=True)
class Candidates:
    """Chains that might run as one computation: `chains` of each of some restrictions that sample alike elements.

    Parameters
    ----------
    restrictions : tuple of str
        Names of the restrictions.
    chains : tuple of int
        Chains of each.
    """

    restrictions: tuple[str, ...]
    chains: tuple[int, ...]

    @property
    def num(self) -> int:
        """Return how many chains these are in all."""
        return len(self.restrictions) * len(self.chains)

    def first(self, num: int) -> Candidates:
        """Return at most so many of them: whole restrictions, or some chains of one."""
        whole = num // len(self.chains)
        return Candidates(self.restrictions[: max(1, whole)], self.chains if whole else self.chains[:num])


def vectorized_engine(spec: RunSpec, candidates: Candidates, shared: SharedPrefix) -> VectorizedEngine:
    """Return an engine of some chains as one computation, after the layers that are constant under their restrictions.

    Call it, and run it, while the model is at w0 and its parameters require no gradients.
    """
    restrictions = [spec.restrictions[name] for name in candidates.restrictions]
    decided = [decide_reuse(spec, masks, shared) for masks in restrictions]
    reuse = next((each for each in decided if each.prefix is None), decided[0])
    prefix = None
    if reuse.prefix is not None:
        prefix = shared.of(reuse.prefix)
        if not spec.settings.match_sampling_input_ids_across_chains:
            # Other minibatches: a chain must not depend on which chains ran before it, not even in the last bits.
            prefix = PrefixCache(reuse.prefix)
    engine = VectorizedEngine(spec, StackedWeights(spec.model, restrictions, len(candidates.chains)), prefix)
    engine.note = reuse.note
    if spec.compile_backend:
        engine.compile_note = "not compiled: chains run side by side"
    return engine


def bytes_of_chain(spec: RunSpec, candidates: Candidates, shared: SharedPrefix) -> int:
    """Return about how many bytes one more chain takes in a step: what backward needs, and gradients of the same size."""
    storages: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with unchanged(spec.model):
        alone = vectorized_engine(spec, candidates.first(1), shared)
        with _failures_named(), saved_tensors_hooks(count, lambda tensor: tensor):
            alone.add_gradient([spec.schedule.steps(candidates.chains[0])[0]])
    return max(1, 2 * sum(storages.values()))


@contextmanager
def _failures_named() -> Iterator[None]:
    """Turn what torch raises where a model cannot run under vmap into `CannotVectorize`."""
    try:
        with no_loops():
            yield
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, UserWarning) as error:
        raise CannotVectorize(f"the model does not run under vmap ({first_line(error)})") from error


@contextmanager
def no_loops() -> Iterator[None]:
    """Raise where torch warns that it must loop over the chains after all: then nothing is gained."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield
