"""The learning coefficients that progress bars show are those of the run."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from devinterp import sample
from devinterp.sampling.chains import loop
from support.small_models import SHORT, TinyModel, ids, make

RUN = {**SHORT, "num_chains": 3, "num_draws": 12, "num_burnin_steps": 5, "lr": 1e-2, "progress": True}


class Padded(TinyModel):
    def forward(self, ids, attention_mask=None):
        return super().forward(ids)


def padded() -> dict[str, torch.Tensor]:
    return {"input_ids": ids(), "attention_mask": torch.arange(9) < (torch.arange(24) % 7 + 3)[:, None]}


def shown(printed: str, name: str) -> list[float]:
    """Return the last coefficient that was shown of each chain."""
    last = dict(re.findall(rf"chain (\d).*?\s{name} (-?[\d.]+)", printed))
    return [float(last[str(chain)]) for chain in range(len(last))]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"record": "sequence"},
        {"gradient_accumulation_steps": 3, "batch_size": 2},
        {"init_noise": 0.3},
        {"match_sampling_input_ids_across_chains": False},
        pytest.param({"workers": 2}, marks=pytest.mark.heavy),
    ],
    ids=str,
)
def test_paired(changes, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    tree = sample(make(Padded), padded(), None, paired=True, **{**RUN, **changes})
    expected = tree.slt.llc()["paired_llc_per_chain"]
    np.testing.assert_allclose(shown(capsys.readouterr().err, "paired LLC"), expected, atol=0.0051)


@pytest.mark.parametrize("changes", [{}, {"init_noise": 0.3}], ids=str)
def test_of_a_run_without_the_losses_at_w0(changes, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    whole = {"num_init_loss_batches": 17, "num_burnin_steps": 0, "num_draws": 17}  # L(w0) of the steps' own minibatches
    tree = sample(make(Padded), padded(), None, paired=False, **{**RUN, **whole, **changes})
    paired = sample(make(Padded), padded(), None, paired=True, **{**RUN, **whole, **changes})
    printed = capsys.readouterr().err
    assert "paired" not in printed.split("paired LLC")[0]
    expected = paired.slt.llc()["paired_llc_per_chain"]
    np.testing.assert_allclose(shown(printed.split("paired LLC")[0], "LLC"), expected, atol=0.0051)
    assert "paired_llc_mean" not in tree.slt.llc()


@pytest.mark.filterwarnings("default::devinterp.errors.DivergenceWarning")
def test_a_chain_that_breaks_where_its_losses_were_just_handed_over(monkeypatch):
    """On a busy machine losses are handed over after any step: a chain that breaks at the next one has none to hand over."""
    broken = {**RUN, "lr": 1e30, "progress": False}
    expected = sample(make(TinyModel), ids(), None, **broken)
    monkeypatch.setattr(loop, "_MAX_BLOCK_SECONDS", 0.0)
    tree = sample(make(TinyModel), ids(), None, **broken)
    assert (tree["status/state"] == "diverged").all()
    for name in ("trace/loss", "status/steps_done"):
        np.testing.assert_array_equal(tree[name], expected[name])
