"""Decide how much of a model is computed once under a restriction: the layers before the first sampled parameter.

Which layers these are is found by watching the model run; that their outputs may be reused is tried before it is relied on.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from devinterp.sampling.data.rows import Rows
from devinterp.sampling.engines.engine import DATASET, observable_key
from devinterp.sampling.engines.equivalence import Computed, tolerance_of, why_refused
from devinterp.sampling.engines.in_place import InPlaceEngine
from devinterp.sampling.engines.prefix_cache import PrefixCache, SharedPrefix, find_prefixes
from devinterp.sampling.engines.weights import InPlaceWeights
from devinterp.sampling.spec import RunSpec


def in_place_engine(spec: RunSpec, weights: InPlaceWeights, shared: SharedPrefix) -> InPlaceEngine:
    """Return an engine for one chain, with the layers before the first sampled parameter computed once for each row.

    Parameters
    ----------
    spec : RunSpec
        The run.
    weights : InPlaceWeights
        The sampled parameters, at w0.
    shared : SharedPrefix
        Activations of the restriction before, reused where this one has the same constant layers, and replaced otherwise.

    Returns
    -------
    InPlaceEngine
        Ready to run. Its `note` says how much of the model is reused, or why nothing.
    """
    rows = spec.rows
    batch, attention_mask, _ = rows.batch(rows.ids[:1])

    def run() -> Tensor:
        return spec.loss.losses(spec.model, batch, attention_mask)

    engine = InPlaceEngine(spec, weights)
    engine.note = "nothing to reuse"
    prefixes = find_prefixes(spec.model, dict.fromkeys(weights.names), run)
    if prefixes and spec.unlike_eval:
        engine.note, prefixes = f"nothing reused: in train mode {spec.unlike_eval}", []
    for prefix in prefixes:
        engine.prefix = shared.of(prefix)
        reason = _why_not_reused(engine, engine.prefix)
        if reason is None:
            engine.note = f"{len(prefix.layers)} layers reused"
            return engine
        engine.note = f"nothing reused: {reason}"
    engine.prefix = None
    shared.clear()
    return engine


@torch.no_grad()
def _why_not_reused(engine: InPlaceEngine, cache: PrefixCache) -> str | None:
    """Return why losses after the cached prefix are not those of the whole model at other weights; None if they are."""
    sources = _sources(engine.spec)
    generator = torch.Generator(engine.spec.device).manual_seed(engine.spec.settings.init_seed)

    def reused() -> Computed:
        for key, rows, first, last in sources:
            # Other rows come after those compared: what a layer leaves somewhere else is of them by then.
            engine.losses(key, rows, first)
            engine.losses(key, rows, last)
        if not cache.gave_up:
            # So that what is wrongly taken for constant shows.
            engine.weights.add(engine.weights.noise([generator], 0.01))
        return computed()

    def plain() -> Computed:
        engine.prefix = None
        return computed()

    def computed() -> Computed:
        return Computed(
            [engine.losses(key, rows, first[::-1])[0] for key, rows, first, _ in sources if cache.holds(key)]
        )

    tolerance = tolerance_of(engine.spec.model, same_arithmetic=True)
    try:
        reason = why_refused(reused, plain, how="without its first layers", tolerance=tolerance)
    finally:
        engine.prefix = cache
        engine.weights.reset()
    if cache.gave_up:
        return cache.gave_up
    if reason is None and not any(cache.holds(key) for key, *_ in sources):
        return f"the activations take more than {cache.budget / 1e9:.2g} GB for each data set"
    return reason


def _sources(spec: RunSpec) -> list[tuple[str, Rows, np.ndarray, np.ndarray]]:
    """Return of each data set its key, its rows and two batches; first those that are needed again at every draw."""
    size = spec.settings.batch_size
    observables = [(observable_key(name), o.rows, o.sequence_id) for name, o in spec.observables.items()]
    return [
        (key, rows, ids[:size], ids[-size:]) for key, rows, ids in [*observables, (DATASET, spec.rows, spec.rows.ids)]
    ]
