"""Weights that do not move have a learning coefficient of zero, whatever is recorded, however text is padded."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from devinterp import sample
from devinterp.analyses.llc import compute_llc, token_llc
from support.small_models import VOCABULARY, TinyModel, make

NUM_ROWS, WIDTH, N_BETA = 24, 12, 20.0
#: A step of this size is far below the rounding of every weight.
STILL = {"lr": 1e-30, "n_beta": N_BETA, "localization": 1.0, "batches_per_draw": 1, "progress": False}
#: n_beta times the rounding of a mean of float32 losses near 4.
ROUNDING = N_BETA * 2**-20


class Masked(TinyModel):
    def forward(self, ids, attention_mask=None):
        return super().forward(ids)


def data(side: str | None, seed: int) -> Any:
    """Return random text, its rows of very different lengths unless `side` is None."""
    rng = np.random.default_rng(seed)
    tokens = torch.from_numpy(rng.integers(VOCABULARY, size=(NUM_ROWS, WIDTH)))
    if side is None:
        return tokens
    mask = np.arange(WIDTH) < rng.integers(2, WIDTH + 1, NUM_ROWS)[:, None]
    if side == "left":
        mask = mask[:, ::-1]
    if side == "inside":
        mask = rng.random(mask.shape) < 0.7
        mask[:, :2] = True
    return {"input_ids": tokens, "attention_mask": torch.from_numpy(mask.copy())}


runs = st.fixed_dictionaries(
    {
        "record": st.sampled_from(["token", "sequence", "moments"]),
        "batch_size": st.integers(2, 6),
        "gradient_accumulation_steps": st.integers(1, 3),
        "num_chains": st.integers(1, 3),
        "num_draws": st.integers(4, 20),
        "num_burnin_steps": st.integers(0, 4),
        "num_init_loss_batches": st.integers(3, 8),
        "match_sampling_input_ids_across_chains": st.booleans(),
        "chains": st.sampled_from(["sequential", "vectorized"]),
        "init_seed": st.integers(0, 1000),
        "init_noise": st.sampled_from([None, 1e-30]),
    }
)
# L(w0) and the steps are means of another kind: of minibatches, and of all losses of a step.
ACCUMULATED = {
    "record": "token", "batch_size": 4, "gradient_accumulation_steps": 3, "num_chains": 3, "num_draws": 13,
    "num_burnin_steps": 1, "num_init_loss_batches": 4, "match_sampling_input_ids_across_chains": True,
    "chains": "vectorized", "init_seed": 426, "init_noise": None,
}  # fmt: skip


@pytest.mark.heavy
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@example(side="right", seed=3, paired=False, run=ACCUMULATED)
@given(side=st.sampled_from([None, "right", "left", "inside"]), seed=st.integers(0, 99), paired=st.booleans(), run=runs)
def test_every_coefficient_is_zero_within_its_error(side, seed, paired, run):
    rows = data(side, seed)
    tree = sample(make(Masked), rows, {"text": rows}, paired=paired, **STILL, **run)
    result = compute_llc(tree)
    assert ("paired_llc_mean" in result) == paired
    for name in ("paired_llc_mean", "paired_llc_per_chain") if paired else ():
        np.testing.assert_allclose(result[name], 0, atol=ROUNDING)
    np.testing.assert_allclose(result["observable_llc_mean"], 0, atol=ROUNDING)
    for name in ("paired_llc_se", "observable_llc_se"):
        if name in result:
            check_error(result[name], largest=ROUNDING)
    if run["record"] != "sequence":
        np.testing.assert_allclose(token_llc(tree)["llc"].fillna(0), 0, atol=10 * ROUNDING)
    check_error(result["llc_se"])
    # Seen by thousands of examples, a normal error this far out is still rare.
    within = abs(result["llc_mean"]) <= 5 * result["llc_se"] + ROUNDING
    assert bool(within) or bool(result["llc_se"].isnull())


def check_error(error: xr.DataArray, largest: float = np.inf) -> None:
    """An error is a number, or says why it is none."""
    if bool(error.isnull().any()):
        assert error.attrs["reason"]
    else:
        assert float(error.max()) <= largest
