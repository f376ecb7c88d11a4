"""Which chains advance together, and the engines that compute them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import final

import numpy as np

from devinterp.models.masks import ParamMasks
from devinterp.sampling.engines.engine import Engine
from devinterp.sampling.engines.malloc_trim import trimmed
from devinterp.sampling.engines.prefix_cache import PrefixCache, SharedPrefix
from devinterp.sampling.engines.prefix_check import in_place_engine
from devinterp.sampling.engines.vectorization import num_together
from devinterp.sampling.engines.vectorized import VectorizedEngine
from devinterp.sampling.engines.weights import StackedWeights, borrowed
from devinterp.sampling.model_guard import unchanged
from devinterp.sampling.spec import RunSpec


@final
@dataclass(frozen=True)
class ChainBatch:
    """Chains of one restriction that are planned to advance together.

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


def plan(spec: RunSpec, masks: ParamMasks, chains: Sequence[int], mode: str) -> list[ChainBatch]:
    """Return the batches in which chains of one restriction are to run.

    Parameters
    ----------
    spec : RunSpec
        The run.
    masks : ParamMasks
        The sampled parameters under the restriction.
    chains : sequence of int
        Chains to run.
    mode : {"auto", "sequential", "vectorized", "fastest"}
        How, or ``"auto"`` to decide by the work that a step takes, ``"fastest"`` by timing one.

    Raises
    ------
    InvalidInputError
        If `mode` is ``"vectorized"`` and the model cannot run so.
    """
    together, why = num_together(spec, masks, chains, mode)
    if not together:
        return [ChainBatch((chain,), False, why) for chain in chains]
    parts = np.array_split(np.asarray(chains), -(-len(chains) // together))
    return [ChainBatch(tuple(part.tolist()), True, why) for part in parts]


def engines_of(
    spec: RunSpec, masks: ParamMasks, batches: Sequence[ChainBatch], shared: SharedPrefix
) -> Iterator[tuple[Engine, ChainBatch]]:
    """Yield an engine for each batch of chains of one restriction, one after the other, each ready to run.

    Close the generator when done with it: afterwards the model is as it was.

    Parameters
    ----------
    spec : RunSpec
        The run.
    masks : ParamMasks
        The sampled parameters under the restriction.
    batches : sequence of ChainBatch
        From `plan`.
    shared : SharedPrefix
        Activations that restrictions of the run share.
    """
    for vectorized, members in groupby(batches, lambda batch: batch.vectorized):
        if vectorized:
            with unchanged(spec.model):
                for batch in members:
                    yield VectorizedEngine(spec, StackedWeights(spec.model, masks, len(batch.chains))), batch
        else:
            with borrowed(spec.model, masks) as weights, trimmed(spec.model, weights.parameters):
                engine = in_place_engine(spec, weights, shared)
                for batch in members:
                    if engine.prefix is not None and not spec.settings.match_sampling_input_ids_across_chains:
                        # Other minibatches: activations of a row may depend on its neighbours in the last bits, and a
                        # chain must not depend on which chains ran before it.
                        engine.prefix = PrefixCache(engine.prefix.prefix)
                    yield engine, batch
