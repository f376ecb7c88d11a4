"""Layers are compiled where that is asked for and gives the same numbers; else the run goes on without, and says why."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from devinterp import RunOptions
from devinterp.errors import InvalidInputError
from support.engines import paths_of
from support.small_models import deep, ids, make, run, same_numbers, snapshot

pytestmark = [
    # torch compiles with settings of its own that warn.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning"),
]
LAST = {"layers.2.mix.weight": None}


@pytest.fixture(autouse=True)
def _fresh():
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
@pytest.mark.parametrize("masks", [None, LAST])
def test_the_same_numbers_as_without(backend, masks):
    model = deep()
    before = snapshot(model)
    options = {"param_masks": masks, "observables": {"code": ids("code")}}
    tree = run(model, **options, compile=backend)
    assert snapshot(model) == before
    name = "full" if masks is None else "custom"
    assert paths_of(tree)[f"compile/{name}"] == f"3 layers compiled with {backend!r}"
    assert paths_of(tree)[f"prefix/{name}"] == ("nothing to reuse" if masks is None else "2 layers reused")
    expected = run(deep(), **options)
    assert f"compile/{name}" not in paths_of(expected)
    same_numbers(tree, expected, rtol=1e-6)


def failing(graph, inputs):
    raise RuntimeError("no compiler on this machine")


def wrong(graph, inputs):
    return lambda *args: tuple(1.01 * each for each in graph(*args))


@pytest.mark.parametrize(
    ("backend", "reason"),
    [(failing, "the model does not run compiled"), (wrong, "losses differ by")],
)
def test_without_where_it_fails_or_differs(backend, reason, caplog, monkeypatch):
    torch._dynamo.register_backend(backend, name=f"tests_{backend.__name__}")
    model = deep()
    before = snapshot(model)
    with caplog.at_level(logging.WARNING, logger="devinterp"):
        tree = run(model, compile=f"tests_{backend.__name__}")
    assert snapshot(model) == before
    assert paths_of(tree)["compile/full"].startswith(f"not compiled: {reason}")
    said = [r.getMessage() for r in caplog.records if r.name == "devinterp"]
    assert len(said) == 1
    assert said[0].startswith(f"layers are not compiled under 'full': {reason}")
    same_numbers(tree, run(deep()))


def test_a_model_without_layers_and_chains_side_by_side():
    assert paths_of(run(make(), compile="eager"))["compile/full"] == "not compiled: the model has no sequence of layers"
    together = run(deep(), compile="eager", chains="vectorized")
    assert paths_of(together)["compile/full"] == "not compiled: chains run side by side"


def test_backends_are_checked():
    with pytest.raises(
        InvalidInputError, match=r"`compile` \(='fast'\) must be True, False or a backend of .*'inductor'"
    ):
        RunOptions(compile="fast")
    assert RunOptions(compile=True).compile_backend == "inductor"
    assert RunOptions().compile_backend == ""
    assert np.all([RunOptions(compile=name).compile_backend == name for name in ("eager", "inductor")])
