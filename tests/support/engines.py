"""Prepared runs, and losses and gradients as a chain gets them, for the tests of fast paths."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from devinterp.models.adapters.huggingface import HuggingFaceAdapter
from devinterp.models.restrictions import as_param_masks
from devinterp.sampling.engines.in_place import InPlaceEngine
from devinterp.sampling.engines.plan import ChainBatch, engines_of
from devinterp.sampling.engines.prefix_cache import SharedPrefix
from devinterp.sampling.losses.loss import NextTokenLoss
from devinterp.sampling.prepare import prepare
from devinterp.sampling.settings import Settings
from devinterp.sampling.spec import RunSpec
from support import model_zoo as zoo

#: One of each family that ends, or passes its layers on, in a way of its own; the others are slow.
FEW = ["gpt2", "gpt_neox", "llama", "gemma2", "gemma3_text", "cohere", "granite", "opt", "mamba", "phi", "gemma3n_text"]
TOKENS = torch.randint(1, zoo.VOCAB, (8, 12), generator=torch.Generator().manual_seed(5))
OTHER = torch.randint(1, zoo.VOCAB, (6, 12), generator=torch.Generator().manual_seed(6))
SETTINGS: dict[str, Any] = {
    "lr": 1e-4, "n_beta": 10.0, "num_chains": 2, "num_draws": 3, "batch_size": 4, "batches_per_draw": 1,
    "num_init_loss_batches": 1,
}  # fmt: skip


def zoo_params(few: Sequence[str] = FEW, *, variant: str = "plain") -> list[Any]:
    """Return every type that transformers can build and that has this variant, all but a few of them slow."""
    types = [t for t in zoo.model_types() if variant in zoo.variants().get(t, ("plain",))]
    return [pytest.param(t, marks=() if t in few else pytest.mark.slow) for t in types]


def spec_of(
    model: nn.Module, data: Any = TOKENS, restrictions: Mapping[str, Any] | None = None, **changes: Any
) -> RunSpec:
    """Return a prepared run, as `sample` makes it."""
    observables = changes.pop("observables", {"other": OTHER})
    loss_fn = changes.pop("loss_fn", None)
    settings = Settings(**{**SETTINGS, **changes})
    named = {name: as_param_masks(model, masks) for name, masks in (restrictions or {"full": None}).items()}
    return prepare(model, data, observables, settings, restrictions=named, loss_fn=loss_fn)


def plain(spec: RunSpec) -> RunSpec:
    """Return the same run with its loss from logits."""
    assert isinstance(spec.loss, NextTokenLoss)
    return replace(spec, loss=NextTokenLoss(spec.loss.adapter))


def measured(spec: RunSpec, name: str = "full", *, reuse: bool = False, level: float = 0.02) -> list[Tensor]:
    """Return the losses of two steps and of an observable, and the gradients of the second step.

    Weights are moved by noise first: what is zero at the start (many biases) must not hide what is wrong.

    Parameters
    ----------
    spec : RunSpec
        The run.
    name : str
        Of the restriction.
    reuse : bool
        Whether layers before the first moving one are computed once.
    level : float
        Standard deviation of the noise.
    """
    rows = spec.rows.ids
    with chain_of(spec, name) as chain:
        if not reuse:
            chain.prefix = None
        chain.weights.add(chain.weights.noise([torch.Generator().manual_seed(3)], level))
        chain.add_gradient([rows[:4]])
        chain.weights.gradients()
        losses = [chain.evaluate(observable)[0] for observable in [*spec.observables] * 2]
        losses.append(chain.add_gradient([rows[[2, 0, 3, 1]]])[0])
        return [*losses, *(g.clone() for g in chain.weights.gradients())]


@contextmanager
def chain_of(spec: RunSpec, name: str) -> Iterator[InPlaceEngine]:
    """Set up a chain of a restriction as a run does."""
    engines = engines_of(spec, [ChainBatch((name,), (0,), False, "as a test")], SharedPrefix())
    with closing(engines):
        yield next(engines)[0]


def reuse_note(spec: RunSpec, name: str) -> str:
    """Return how much of the model is reused under a restriction, as it is recorded."""
    with chain_of(spec, name) as engine:
        return engine.note


def assert_close(found: Sequence[Tensor], expected: Sequence[Tensor], *, num_losses: int, tolerance: float = 1e-5):
    """Assert that losses agree relative to the largest loss, and gradients to the largest gradient."""
    for part in (slice(num_losses), slice(num_losses, None)):
        largest = max((float(torch.nan_to_num(e).abs().max()) for e in expected[part]), default=0.0)
        for f, e in zip(found[part], expected[part], strict=True):
            assert torch.equal(torch.isnan(f), torch.isnan(e))
            worst = float(torch.nan_to_num(f - e).abs().max())
            assert worst <= tolerance * largest, f"{worst / largest:.2g} of the largest, {largest:.3g}"


def paths_of(tree: xr.DataTree) -> dict[str, str]:
    """Return which ways of computing a run says it took."""
    return json.loads(tree.attrs["provenance"])["paths"]


def last_layer(model: nn.Module) -> tuple[int, dict[str, bool]]:
    """Return how many layers a HuggingFace decoder has, and masks that move the last."""
    layers = HuggingFaceAdapter().structure(model).layers
    return len(layers), dict.fromkeys(layers[-1].masks, True)
