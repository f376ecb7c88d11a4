"""Decide how much of a model is computed once under a restriction: the layers before the first sampled parameter.

Which layers these are is found by watching the model run; that their outputs may be reused is tried before it is relied on.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from devinterp.models.masks.mask import Mask
from devinterp.models.masks.param_masks import union
from devinterp.sampling.data.rows import Rows
from devinterp.sampling.engines.engine import DATASET, observable_key
from devinterp.sampling.engines.equivalence import Computed, tolerance_of, why_refused
from devinterp.sampling.engines.in_place import InPlaceEngine
from devinterp.sampling.engines.prefix_cache import PrefixCache, Reuse, SharedPrefix
from devinterp.sampling.engines.prefix_layers import find_prefixes
from devinterp.sampling.engines.weights import InPlaceWeights, borrowed
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
        What restrictions share: activations of the one before are reused where this one has the same constant layers.

    Returns
    -------
    InPlaceEngine
        Ready to run. Its `note` says how much of the model is reused, or why nothing.
    """
    reuse = decide_reuse(spec, dict(zip(weights.names, weights.masks, strict=True)), shared)
    engine = InPlaceEngine(spec, weights, None if reuse.prefix is None else shared.of(reuse.prefix))
    engine.note = reuse.note
    return engine


def decide_reuse(spec: RunSpec, masks: Mapping[str, Mask], shared: SharedPrefix) -> Reuse:
    """Return how much of the model is computed once under a restriction; call it while the model is at w0.

    It is tried once for all restrictions of the run that sample elements of the same parameters.

    Parameters
    ----------
    spec : RunSpec
        The run.
    masks : mapping of str to Mask
        The sampled elements.
    shared : SharedPrefix
        What restrictions share.
    """
    decided = shared.decided(masks)
    if decided is not None:
        return decided
    kin = [other for other in spec.restrictions.values() if list(other) == list(masks)]
    whole = union([masks, *kin])
    reuse = _try_reuse(spec, whole, shared)
    # That no layer is constant only depends on which parameters are sampled; a refusal may depend on their elements.
    if reuse.refused and any(whole[name].num_elements > mask.num_elements for name, mask in masks.items()):
        reuse = _try_reuse(spec, dict(masks), shared)
    shared.remember(reuse)
    if reuse.prefix is None:
        shared.clear()
    return reuse


def _try_reuse(spec: RunSpec, masks: Mapping[str, Mask], shared: SharedPrefix) -> Reuse:
    """Find the constant layers and compare losses with and without them, at weights moved by noise."""
    rows = spec.rows
    batch, attention_mask, _ = rows.batch(rows.ids[:1])
    reason = None
    with borrowed(spec.model, masks) as weights:
        prefixes = find_prefixes(spec.model, masks, lambda: spec.loss.losses(spec.model, batch, attention_mask))
        if prefixes and spec.unlike_eval:
            return Reuse(None, f"nothing reused: in train mode {spec.unlike_eval}", masks)
        for prefix in prefixes:
            engine = InPlaceEngine(spec, weights, shared.of(prefix))
            reason = _why_not_reused(engine, shared.of(prefix))
            if reason is None:
                return Reuse(prefix, f"{len(prefix.layers)} layers reused", masks)
    note = "nothing to reuse" if reason is None else f"nothing reused: {reason}"
    return Reuse(None, note, masks, refused=reason is not None)


@torch.no_grad()
def _why_not_reused(engine: InPlaceEngine, cache: PrefixCache) -> str | None:
    """Return why losses after the cached prefix are not those of the whole model at other weights; None if they are."""
    sources = _sources(engine.spec)
    generator = torch.Generator(engine.spec.device).manual_seed(engine.spec.settings.init_seed)

    def reused() -> Computed:
        for key, rows, first, last in sources:
            # Other rows come after those compared: what a layer leaves somewhere else is of them by then.
            for batch in [first] if first is last else [first, last]:
                engine.losses(key, rows, batch)
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
    """Return of each data set its key, its rows, its first and its last batch; first those that are needed at every draw.

    Batches are those of the run: activations may depend on a row's neighbours in the last bits, and what is kept of them here
    is what a run keeps that does not come by this check.
    """
    observables = [(observable_key(name), o.rows, o.sequence_id) for name, o in spec.observables.items()]
    every = [*observables, (DATASET, spec.rows, spec.schedule.step_rows())]
    batches = [(key, rows, spec.batches_of(ids)) for key, rows, ids in every]
    return [(key, rows, parts[0], parts[-1]) for key, rows, parts in batches]
