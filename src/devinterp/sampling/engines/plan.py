"""Which chains advance together, and the engines that compute them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar, final

import numpy as np

from devinterp.models.kept_attributes import attributes_kept
from devinterp.sampling.engines.compilation import compiled
from devinterp.sampling.engines.engine import Engine
from devinterp.sampling.engines.malloc_trim import trimmed
from devinterp.sampling.engines.prefix_cache import PrefixCache, SharedPrefix
from devinterp.sampling.engines.prefix_check import in_place_engine
from devinterp.sampling.engines.side_by_side import Candidates, vectorized_engine
from devinterp.sampling.engines.vectorization import num_together
from devinterp.sampling.engines.weights import borrowed
from devinterp.sampling.model_guard import unchanged
from devinterp.sampling.spec import RunSpec

T = TypeVar("T")


@final
@dataclass(frozen=True)
class ChainBatch:
    """Chains that are planned to advance together.

    Parameters
    ----------
    restrictions : tuple of str
        Names of the restrictions they are under; one, unless they are vectorized.
    chains : tuple of int
        Which chains of each restriction; one, unless they are vectorized.
    vectorized : bool
        Whether they run as one batched computation.
    why : str
        What decided that.
    """

    restrictions: tuple[str, ...]
    chains: tuple[int, ...]
    vectorized: bool
    why: str


def plan(
    spec: RunSpec,
    restrictions: Sequence[str],
    chains: Sequence[int],
    mode: str,
    shared: SharedPrefix | None = None,
) -> list[ChainBatch]:
    """Return the batches in which chains are to run.

    Parameters
    ----------
    spec : RunSpec
        The run; its model must be at w0.
    restrictions : sequence of str
        Names of restrictions that sample alike elements (`devinterp.sampling.engines.stacked_weights.alike`).
    chains : sequence of int
        Chains to run of each.
    mode : {"auto", "sequential", "vectorized", "fastest"}
        How, or ``"auto"`` to decide by the work that a step takes, ``"fastest"`` by timing one.
    shared : SharedPrefix, optional
        What restrictions share; default: nothing.

    Raises
    ------
    InvalidInputError
        If `mode` is ``"vectorized"`` and the model cannot run so.
    """
    together, why = num_together(
        spec, Candidates(tuple(restrictions), tuple(chains)), mode, SharedPrefix() if shared is None else shared
    )
    if not together:
        return [ChainBatch((name,), (chain,), False, why) for name in restrictions for chain in chains]
    whole = together // len(chains)
    if whole:
        names = _parts(restrictions, whole)
        return [ChainBatch(part, tuple(chains), True, why) for part in names]
    return [ChainBatch((name,), part, True, why) for name in restrictions for part in _parts(chains, together)]


def _parts(members: Sequence[T], most: int) -> list[tuple[T, ...]]:
    """Return members in as few parts of about the same size as hold at most so many each."""
    numbers = np.array_split(np.arange(len(members)), -(-len(members) // most))
    return [tuple(members[int(n)] for n in part) for part in numbers]


def engines_of(
    spec: RunSpec, batches: Sequence[ChainBatch], shared: SharedPrefix
) -> Iterator[tuple[Engine, ChainBatch]]:
    """Yield an engine for each batch of chains, one after the other, each ready to run.

    What modules keep in ``forward`` is put back after each batch, so that none depends on those before it. Close the generator
    when done with it: afterwards the model is as it was.

    Parameters
    ----------
    spec : RunSpec
        The run.
    batches : sequence of ChainBatch
        From `plan`.
    shared : SharedPrefix
        What restrictions of the run share.
    """
    for (names, vectorized), members in groupby(batches, lambda batch: (batch.restrictions, batch.vectorized)):
        if vectorized:
            with unchanged(spec.model):
                for batch in members:
                    engine = vectorized_engine(spec, Candidates(names, batch.chains), shared)
                    with attributes_kept(spec.model):
                        yield engine, batch
        else:
            masks = spec.restrictions[names[0]]
            with borrowed(spec.model, masks) as weights, trimmed(spec.model, weights.parameters):
                single = in_place_engine(spec, weights, shared)
                with compiled(single):
                    for batch in members:
                        if single.prefix is not None and not spec.settings.match_sampling_input_ids_across_chains:
                            # Other minibatches: activations of a row may depend on its neighbours in the last bits, and a
                            # chain must not depend on which chains ran before it.
                            single.prefix = PrefixCache(single.prefix.prefix)
                        with attributes_kept(spec.model):
                            yield single, batch
