"""Which chains advance together, and setting them up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from devinterp.models.masks.param_masks import ParamMasks
from devinterp.sampling.engines.engine import Engine
from devinterp.sampling.engines.malloc_trim import trimmed
from devinterp.sampling.engines.prefix_cache import PrefixCache
from devinterp.sampling.engines.prefix_check import in_place_engine
from devinterp.sampling.engines.vectorization import num_together
from devinterp.sampling.engines.vectorized import VectorizedEngine
from devinterp.sampling.engines.weights import StackedWeights, borrowed
from devinterp.sampling.model_guard import unchanged
from devinterp.sampling.spec import RunSpec


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


def plan(spec: RunSpec, masks: ParamMasks, chains: Sequence[int], mode: str) -> list[Group]:
    """Return the groups in which chains of one restriction are to run.

    Parameters
    ----------
    spec : RunSpec
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
    together, why = num_together(spec, masks, chains, mode)
    if not together:
        return [Group((chain,), False, why) for chain in chains]
    parts = np.array_split(np.asarray(chains), -(-len(chains) // together))
    return [Group(tuple(part.tolist()), True, why) for part in parts]


def set_up(spec: RunSpec, name: str, masks: ParamMasks, groups: Sequence[Group]) -> Iterator[tuple[Engine, Group]]:
    """Yield groups of chains of one restriction, one after the other, each ready to run.

    Close the generator when done with it: afterwards the model is as it was.

    Parameters
    ----------
    spec : RunSpec
        The run. How much of the model is reused is entered in ``spec.paths``.
    name : str
        Of the restriction.
    masks : ParamMasks
        What moves under it.
    groups : sequence of Group
        From `plan`.
    """
    for vectorized, members in groupby(groups, lambda group: group.vectorized):
        if vectorized:
            with unchanged(spec.model):
                for group in members:
                    weights = StackedWeights(spec.model, masks, len(group.chains))
                    yield VectorizedEngine(spec, weights), group
        else:
            with (
                borrowed(spec.model, masks) as borrowed_weights,
                trimmed(spec.model, borrowed_weights.parameters),
            ):
                single, spec.paths[f"prefix/{name}"] = in_place_engine(spec, borrowed_weights)
                for group in members:
                    if single.prefix is not None and not spec.settings.match_sampling_input_ids_across_chains:
                        # Other batches: what a row gives may depend on its neighbours in the last bits, and a chain
                        # must not depend on which chains ran before it.
                        single.prefix = PrefixCache(single.prefix.prefix)
                    yield single, group
