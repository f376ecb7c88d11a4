"""How much of a model is constant under a restriction: found by watching it run, and tried before it is relied on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from devinterp.errors import first_line
from devinterp.sampling.data.datasets import Rows
from devinterp.sampling.engines.engine import DATASET, watched_key
from devinterp.sampling.engines.in_place import InPlaceEngine
from devinterp.sampling.engines.prefix_cache import Prefix, PrefixCache, find_prefixes
from devinterp.sampling.engines.weights import InPlaceWeights
from devinterp.sampling.spec import RunSpec


def in_place_engine(spec: RunSpec, weights: InPlaceWeights) -> tuple[InPlaceEngine, str]:
    """Return a chain in the model, with the layers before the first moving one computed once for each row.

    Parameters
    ----------
    spec : RunSpec
        The run.
    weights : InPlaceWeights
        What moves, where chains start.

    Returns
    -------
    chain : InPlaceEngine
        Ready to run.
    note : str
        How much of the model is reused, or why nothing.
    """
    rows = spec.rows
    batch, attention_mask = rows.batch(rows.ids[:1])

    def run() -> Tensor:
        return spec.loss.losses(spec.model, batch, attention_mask)

    single, note = InPlaceEngine(spec, weights), "nothing to reuse"
    for prefix in find_prefixes(spec.model, dict.fromkeys(weights.names), run):
        single.prefix = _cache(spec, prefix)
        doubt = _doubt(single, single.prefix)
        if doubt is None:
            return single, f"{len(prefix.layers)} layers reused"
        note = f"nothing reused: {doubt}"
    single.prefix = None
    spec.kept.clear()
    return single, note


def _cache(spec: RunSpec, prefix: Prefix) -> PrefixCache:
    """Return what the restriction before kept of the same layers, or else nothing yet."""
    if not spec.kept or spec.kept[0].prefix != prefix:
        spec.kept[:] = [PrefixCache(prefix)]
    return spec.kept[0]


@torch.no_grad()
def _doubt(single: InPlaceEngine, cache: PrefixCache) -> str | None:
    """Return why losses after the kept prefix are not those of the whole model once weights have moved; None if they are."""
    sources = _sources(single.spec)
    generator = torch.Generator(single.spec.device).manual_seed(single.spec.settings.init_seed)
    try:
        for key, rows, first, last in sources:
            # Other rows come after those compared: what a layer leaves somewhere else is of them by then.
            single.losses(key, rows, first)
            single.losses(key, rows, last)
        if cache.gave_up:
            return cache.gave_up
        single.weights.add(single.weights.noise([generator], 0.01))  # so that what is wrongly taken for constant shows
        held = [(key, rows, first[::-1]) for key, rows, first, _ in sources if cache.holds(key)]
        reused = [single.losses(*source)[0] for source in held]
        single.prefix = None
        plain = [single.losses(*source)[0] for source in held]
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        return f"the model does not run without its first layers ({first_line(error)})"
    finally:
        single.prefix = cache
        single.weights.reset()
    if not held:
        return f"what layers give takes more than {cache.budget / 1e9:.2g} GB for each data set"
    worst = max(_difference(a, b) for a, b in zip(reused, plain, strict=True))
    return None if worst <= 1e-5 else f"losses differ by {worst:.2g}"


def _sources(spec: RunSpec) -> list[tuple[str, Rows, np.ndarray, np.ndarray]]:
    """Return of each data set its key, its rows and two batches; first those that are needed again at every draw."""
    size = spec.settings.batch_size
    watched = [(watched_key(name), o.rows, o.sequence_id) for name, o in spec.observables.items()]
    return [(key, rows, ids[:size], ids[-size:]) for key, rows, ids in [*watched, (DATASET, spec.rows, spec.rows.ids)]]


def _difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest loss; losses of padding, NaN, are left out."""
    padding = expected.isnan()
    largest = torch.where(padding, 0, expected).abs().max()
    worst = torch.where(padding, 0, found - expected).abs().max()
    return float("inf") if bool(worst.isnan()) else float(worst / largest.clamp(min=torch.finfo(worst.dtype).tiny))
