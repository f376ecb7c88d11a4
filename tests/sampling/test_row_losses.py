"""Losses at w0 of the rows that steps use: what is stored, when, and what it costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

import devinterp
from devinterp import sample
from devinterp.sampling.losses.loss import token_losses
from support.small_models import SHORT, TinyModel, ids, make, run, same_numbers

LONG = {"num_draws": 12, "num_chains": 3}  # rows are replayed often enough for their losses to be cheap


class Padded(TinyModel):
    """Takes a mask, which no token's logits depend on."""

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(ids)


def padded() -> dict[str, torch.Tensor]:
    """Return token ids with padding on the right, of different lengths."""
    lengths = torch.arange(24) % 6 + 4
    return {"input_ids": ids(), "attention_mask": torch.arange(9) < lengths[:, None]}


def at_w0(tokens: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return token_losses(make()(tokens), tokens).numpy()


def rows_of(tree: xr.DataTree, step: int) -> np.ndarray:
    """Return the losses at w0 of the rows of a step, ``(chain, batch, position)``."""
    trace = tree["trace"]
    index = np.searchsorted(trace["row_id"], trace["sequence_id"][:, step])
    assert (trace["row_id"].values[index] == trace["sequence_id"][:, step].values).all()
    return trace["row_loss"].values[index]


def test_they_are_the_losses_of_the_model_as_it_was_given():
    tree = run(**LONG)
    trace = tree["trace"]
    assert trace["row_loss"].dims == ("row", "position")
    np.testing.assert_array_equal(trace["row_id"], np.unique(trace["sequence_id"]))
    np.testing.assert_allclose(trace["row_loss"], at_w0(ids())[trace["row_id"].values], rtol=1e-6)
    # The first step's losses are computed before its update: at w0.
    np.testing.assert_allclose(rows_of(tree, 0), trace["loss"][0, :, 0], rtol=1e-6)
    assert tree.attrs["schema_version"] == 2


def test_padding_is_masked():
    tree = run(make(Padded), padded(), paired=True)
    np.testing.assert_array_equal(np.isnan(rows_of(tree, 0)), np.isnan(tree["trace/loss"][0, :, 0]))
    np.testing.assert_allclose(rows_of(tree, 0), tree["trace/loss"][0, :, 0], rtol=1e-6)


@pytest.mark.parametrize("record", ["sequence", "moments"])
def test_less_is_stored_where_less_is_recorded(record):
    tree = run(make(Padded), padded(), observables={"a": (padded(), 1)}, record=record, paired=True)
    trace = tree["trace"]
    assert trace["row_loss"].dims == trace["row_count"].dims == ("row",)
    assert trace["row_loss"].dtype == np.float64
    mask = padded()["attention_mask"].numpy()
    valid = (mask[:, 1:] & mask[:, :-1])[trace["row_id"].values]
    np.testing.assert_array_equal(trace["row_count"], valid.sum(1))
    means = np.where(valid, at_w0(ids())[trace["row_id"].values], 0).sum(1) / valid.sum(1)
    np.testing.assert_allclose(trace["row_loss"], means, rtol=1e-6)
    index = np.searchsorted(trace["row_id"], trace["sequence_id"][:, 0])
    if record == "sequence":
        np.testing.assert_allclose(trace["row_loss"].values[index], trace["loss"][0, :, 0], rtol=1e-6)
    else:
        weights = trace["row_count"].values[index]
        mean = (trace["row_loss"].values[index] * weights).sum(1) / weights.sum(1)
        np.testing.assert_allclose(mean, trace["mean_loss"][0, :, 0], rtol=1e-6)


def test_they_are_stored_where_they_are_cheap_and_wherever_they_are_asked_for():
    # 16 distinct rows, a third of a gradient each; 2 chains x 4 draws x 4 rows take 32 gradients.
    assert "row_loss" not in run()["trace"]
    assert "row_loss" in run(paired=True)["trace"]
    assert "row_loss" in run(num_chains=3)["trace"]  # 0.111 of the gradients
    assert "row_loss" not in run(num_chains=3, paired=False)["trace"]


def test_nothing_else_changes():
    plain, paired = run(**LONG, paired=False), run(**LONG, paired=True)
    assert set(paired["trace"].data_vars) - set(plain["trace"].data_vars) == {"row_id", "row_loss"}
    for name in plain["trace"].data_vars:
        np.testing.assert_array_equal(plain["trace"][name], paired["trace"][name])


@pytest.mark.parametrize("noise", [None, 0.1])
def test_a_run_that_was_made_without_is_completed(tmp_path, noise):
    path = tmp_path / "run.zarr"
    run(**LONG, init_noise=noise, output_path=path, paired=False)
    assert "row_loss" not in run(**LONG, init_noise=noise, output_path=path)["trace"]  # not without being asked
    tree = run(**LONG, init_noise=noise, output_path=path, paired=True)
    same_numbers(tree.load(), run(**LONG, init_noise=noise, paired=True))
    again = devinterp.open(path)
    assert again.attrs["schema_version"] == 2
    same_numbers(run(**LONG, init_noise=noise, output_path=path, paired=False).load(), again.load())  # nothing is lost


def test_rows_that_come_with_more_draws_follow_after_the_others(tmp_path):
    path = tmp_path / "run.zarr"
    short = run(num_draws=2, output_path=path, paired=True)
    few = short["trace/row_id"].values
    tree = run(num_draws=5, output_path=path).load()
    row_id = tree["trace/row_id"].values
    np.testing.assert_array_equal(row_id[: len(few)], few)
    assert len(row_id) > len(few)
    assert sorted(row_id) == sorted(set(tree["trace/sequence_id"].values.ravel()))
    np.testing.assert_allclose(tree["trace/row_loss"], at_w0(ids())[row_id], rtol=1e-6)


def test_with_noise_at_the_start_the_loss_without_it_is_stored():
    noisy, plain = run(init_noise=0.3), run()
    for name, reference in (("w0_loss", "init_loss"), ("w0_loss_se", "init_loss_se")):
        np.testing.assert_allclose(noisy["trace"][name], plain["trace"][reference], rtol=1e-5)
    for name in ("w0_loss_mean", "w0_loss_mean_se"):
        np.testing.assert_allclose(noisy["trace"][name], plain["trace"][name.replace("w0", "init")], rtol=1e-5)
    assert not np.allclose(noisy["trace/w0_loss"], noisy["trace/init_loss"][0])
    assert "w0_loss" not in plain["trace"]


def test_the_dry_run_counts_them(tmp_path):
    settings = {name: value for name, value in {**SHORT, **LONG}.items() if name != "chains"}
    with_rows, without = (sample(make(), ids(), dry_run=True, paired=paired, **settings) for paired in (True, False))
    assert with_rows.evaluations - without.evaluations == 6  # 24 rows in batches of 4
    assert with_rows.arrays["trace/row_loss"] > 0
    assert "trace/row_loss" not in without.arrays
