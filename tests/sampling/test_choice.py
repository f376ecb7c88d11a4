"""Memory bounds how many chains run side by side, and the record says so."""

from __future__ import annotations

import json

import numpy as np
import pytest

from devinterp.models.restrictions import as_param_masks
from devinterp.sampling.engines import vectorization
from devinterp.sampling.engines.plan import plan
from devinterp.sampling.engines.prefix_cache import SharedPrefix
from devinterp.sampling.engines.side_by_side import Candidates
from devinterp.sampling.prepare import prepare
from devinterp.sampling.settings import Settings
from support.small_models import SHORT, ids, make, run, same_numbers


def prepared(model, **changes):
    names = ("lr", "n_beta", "localization", "num_chains", "num_draws", "batch_size")
    settings = Settings(**{**{name: SHORT[name] for name in names}, **changes})
    return prepare(model, ids(), None, settings, restrictions={"full": as_param_masks(model, None)})


def size_of_chain(spec):
    return vectorization.bytes_of_chain(spec, Candidates(("full",), (0,)), SharedPrefix())


def paths(tree):
    return json.loads(tree.attrs["provenance"])["paths"]


def test_memory_of_a_chain_is_that_of_its_step():
    small = size_of_chain(prepared(make()))
    large = size_of_chain(prepared(make(), batch_size=16))
    logits = 4 * 12 * 8 * 23  # bytes of float32, by which a batch of 16 has more than one of 4
    assert large - small > 2 * logits
    assert large < 4.5 * small


@pytest.mark.parametrize(("fit", "groups"), [(7, [7]), (6, [4, 3]), (3, [3, 2, 2]), (1, [1] * 7), (0.1, [1] * 7)])
def test_as_many_as_fit_run_together(fit, groups, monkeypatch):
    spec = prepared(make(), num_chains=7)
    monkeypatch.setattr(vectorization, "_HOST_BUDGET", int(fit * size_of_chain(spec)))
    found = plan(spec, ["full"], range(7), "vectorized")
    assert [len(group.chains) for group in found] == groups
    assert [chain for group in found for chain in group.chains] == list(range(7))
    assert all(group.vectorized for group in found)
    assert all(type(chain) is int for group in found for chain in group.chains)


def test_groups_of_chains_give_the_same(monkeypatch, tmp_path):
    expected = run(num_chains=5, chains="sequential")
    spec = prepared(make())
    size = size_of_chain(spec)
    monkeypatch.setattr(vectorization, "_HOST_BUDGET", 2 * size)
    found = run(num_chains=5, chains="vectorized", output_path=tmp_path / "run.zarr")
    np.testing.assert_allclose(found["trace/loss"], expected["trace/loss"], rtol=1e-5)
    assert paths(found)["chains/full"] == "vectorized: asked for, 2 at a time for their memory"
    monkeypatch.undo()
    same_numbers(run(num_chains=5, chains="vectorized", output_path=tmp_path / "run.zarr"), found)


def test_chains_that_do_not_fit_run_one_after_the_other(monkeypatch):
    monkeypatch.setattr(vectorization, "_HOST_BUDGET", 1)
    tree = run(chains="auto")
    assert paths(tree)["chains/full"] == "sequential: two chains side by side take too much memory"
