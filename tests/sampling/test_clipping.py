"""Clipping of gradients: that of `torch.nn.utils.clip_grad_norm_`, for each chain by itself."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from devinterp.errors import InvalidInputError, StoreMismatchError
from devinterp.sampling.chains.stepper import clip_gradients
from devinterp.slt.sampler import sample_single_chain
from support.small_models import SHORT, ids, make, run, same_numbers

pytestmark = pytest.mark.usefixtures("unchecked")


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(1e-3, 1e3), max_norm=st.floats(1e-3, 1e3), chains=st.integers(1, 4))
def test_each_chain_is_clipped_as_torch_clips_a_model(seed, scale, max_norm, chains):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 2), (5,), (), (2, 2, 2)]
    gradients = [scale * torch.randn((chains, *shape), generator=generator) for shape in shapes]
    expected = []
    for chain in range(chains):
        parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient[chain].clone()
        torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        expected.append([parameter.grad for parameter in parameters])
    clip_gradients(gradients, max_norm)
    for n, gradient in enumerate(gradients):
        torch.testing.assert_close(gradient, torch.stack([of_chain[n] for of_chain in expected]))


def test_a_chain_with_clipping_is_gradient_descent_with_clip_grad_norm():
    options = {"num_chains": 1, "noise_level": 0.0, "localization": 0.0, "num_draws": 5, "lr": 0.1}
    tree = run(max_grad_norm=0.05, **options)
    model, losses = copy.deepcopy(make()), []
    for rows in tree["trace/sequence_id"][0].to_numpy():
        batch = ids()[rows]
        loss = nn.functional.cross_entropy(model(batch)[:, :-1].transpose(1, 2), batch[:, 1:])
        losses.append(float(loss.detach()))
        model.zero_grad()
        loss.backward()
        assert torch.nn.utils.clip_grad_norm_(model.parameters(), 0.05) > 0.05  # it does clip
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= options["lr"] / 2 * SHORT["n_beta"] * parameter.grad
    np.testing.assert_allclose(tree["trace/loss"][0, 0].mean(("batch", "position")), losses, rtol=1e-5)


@pytest.mark.parametrize("method", ["sgld", "rmsprop_sgld"])
def test_side_by_side_as_one_after_the_other(method):
    options = {"max_grad_norm": 0.05, "sampling_method": method, "match_sampling_input_ids_across_chains": False}
    sequential, vectorized = (run(chains=chains, **options) for chains in ("sequential", "vectorized"))
    same_numbers(vectorized, sequential, rtol=1e-4)


def test_off_by_default_and_without_effect_below_the_limit():
    same_numbers(run(max_grad_norm=1e6), run())
    assert json.loads(run().attrs["config"])["max_grad_norm"] is None
    assert json.loads(run(max_grad_norm=2).attrs["config"])["max_grad_norm"] == 2.0


def test_the_gradient_that_is_measured_is_the_clipped_one():
    tree = run(max_grad_norm=0.05, save_metrics=True)
    limit = SHORT["lr"] / 2 * SHORT["n_beta"] * 0.05
    np.testing.assert_allclose(tree["metrics/unscaled_grad"], limit, rtol=1e-3)


def test_a_run_goes_on_only_with_the_same_limit(tmp_path):
    run(max_grad_norm=0.05, output_path=tmp_path / "run.zarr")
    longer = run(max_grad_norm=0.05, num_draws=6, output_path=tmp_path / "run.zarr").load()
    same_numbers(longer, run(max_grad_norm=0.05, num_draws=6, output_path=tmp_path / "other.zarr").load())
    with pytest.raises(StoreMismatchError, match=r"max_grad_norm: the store has 0\.05, this run null"):
        run(output_path=tmp_path / "run.zarr", num_draws=6)


def test_one_chain_by_itself():
    def evaluate(model, batch):
        return nn.functional.cross_entropy(model(batch)[:, :-1].transpose(1, 2), batch[:, 1:]), None

    options = {name: SHORT[name] for name in ("lr", "n_beta", "localization", "num_draws", "batch_size")}
    alone = sample_single_chain(make(), ids(), evaluate, max_grad_norm=0.05, **options)
    tree = run(max_grad_norm=0.05)
    np.testing.assert_allclose(alone["loss"], tree["trace/loss"][0, 0].mean(("batch", "position")), rtol=1e-5)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), "much", True])
def test_limits_out_of_range(value):
    with pytest.raises(InvalidInputError, match=r"`max_grad_norm` \(=.*\) must be"):
        run(max_grad_norm=value)


def test_a_clipped_step_is_no_proposal():
    with pytest.raises(InvalidInputError, match=r"'mala_acceptance' is of steps that are proposals.*`max_grad_norm`"):
        run(max_grad_norm=1.0, save_metrics=["mala_acceptance"])
