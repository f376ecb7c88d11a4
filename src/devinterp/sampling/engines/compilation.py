"""Compile the layers of a model with ``torch.compile`` while one chain is sampled in it, where that gives the same numbers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from devinterp.sampling.engines.engine import DATASET
from devinterp.sampling.engines.equivalence import Computed, tolerance_of, why_refused
from devinterp.sampling.engines.in_place import InPlaceEngine
from devinterp.sampling.engines.prefix_layers import layers_in_order
from devinterp.sampling.losses.unembedding import replaced_forward


@contextmanager
def compiled(engine: InPlaceEngine) -> Iterator[None]:
    """Let the layers of an engine's model run compiled inside, where ``spec.compile_backend`` asks for it.

    Each layer is compiled by itself: that is fast, layers of one kind share what is compiled, and those that are constant
    under a restriction can still be left out. The engine's `compile_note` says whether that was done, or why not.

    Parameters
    ----------
    engine : InPlaceEngine
        Ready to run, with its weights at w0.
    """
    spec = engine.spec
    if not spec.compile_backend:
        yield
        return
    batch, attention_mask, _ = spec.rows.batch(spec.rows.ids[:1])
    layers = layers_in_order(spec.model, lambda: spec.loss.losses(spec.model, batch, attention_mask))
    with ExitStack() as stack:
        reason = _why_not_compiled(engine, layers, stack) if layers else "the model has no sequence of layers"
        if reason is None:
            engine.compile_note = f"{len(layers)} layers compiled with {spec.compile_backend!r}"
        else:
            stack.close()
            engine.compile_note = f"not compiled: {reason}"
        yield


def _why_not_compiled(engine: InPlaceEngine, layers: tuple[nn.Module, ...], stack: ExitStack) -> str | None:
    """Put compiled layers in place until the stack is closed; return why they may not be used, None if they may."""
    spec, generator = engine.spec, torch.Generator(engine.spec.device)
    rows = [spec.schedule.steps(0)[0]]

    def computed() -> Computed:
        losses, _ = engine.add_gradient(rows)
        evaluated, _ = engine.losses(DATASET, spec.rows, rows[0][: spec.settings.batch_size])  # compiled apart
        return Computed([losses, evaluated], engine.weights.gradients())

    def with_compiled_layers() -> Computed:
        for layer in layers:
            function = torch.compile(layer.forward, backend=spec.compile_backend, dynamic=False)
            inside.enter_context(replaced_forward(layer, function))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch looks at while it compiles is no concern of ours
            return computed()

    with ExitStack() as inside:
        engine.weights.add(engine.weights.noise([generator.manual_seed(spec.settings.init_seed)], 0.01))
        try:
            plain = computed()
            reason = why_refused(
                with_compiled_layers, lambda: plain, how="compiled", tolerance=tolerance_of(spec.model)
            )
        finally:
            engine.weights.reset()
        if reason is None:
            stack.push(inside.pop_all())
    return reason
