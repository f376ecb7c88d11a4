"""Patterning of a small transformer: what is predicted, what held-out chains confirm, and what a run with the weights gives."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch.nn.functional import cross_entropy

import devinterp

pytest.importorskip("devinterp_structure", reason="devinterp-structure is not installed")

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def losses(model: torch.nn.Module, batch: Any) -> torch.Tensor:
    ids, weights = batch
    each = cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return weights * each.view(len(ids), -1).mean(1)


class Transformer:
    """The induction transformer while it learns to copy, on copied and on random texts."""

    def __init__(self, induction: Any) -> None:
        generator = torch.Generator().manual_seed(3)
        random = torch.randint(induction.VOCABULARY, (32, 2 * induction.HALF), generator=generator)
        self.model = induction.load(checkpoint=120, seed=0)
        self.rows = torch.cat([induction.texts(16, seed=11), random[:16]])
        self.held_out = {"copied": induction.texts(16, seed=12), "random": random[16:]}

    def sample(self, weights: np.ndarray, seed: int) -> xr.DataTree:
        plain = torch.ones(len(self.rows))
        observables = {name: ((rows, plain[:16]), 1) for name, rows in self.held_out.items()}
        return devinterp.sample(
            self.model, (self.rows, torch.as_tensor(weights, dtype=torch.float32)),
            {"train": ((self.rows, plain), 2), **observables}, loss_fn=losses, sampling_method="baoab", lr=3e-3,
            n_beta=100.0, localization=50.0, num_chains=8, num_draws=300, num_burnin_steps=150, num_steps_bw_draws=4,
            batch_size=16, gradient_accumulation_steps=2, init_seed=seed, progress=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def transformer() -> Any:
    sys.path.insert(0, str(EXAMPLES))
    try:
        import induction
    finally:
        sys.path.remove(str(EXAMPLES))
    return Transformer(induction)


@pytest.mark.slow
def test_losses_move_as_predicted_in_sign_and_within_their_errors(transformer: Transformer) -> None:
    wanted = {"random": -0.02, "copied": 0.02}
    before = transformer.sample(np.ones(32), seed=0)
    result = before.slt.patterning(wanted, candidates="train")
    confirmed, error = result["held_out_change"].to_numpy(), result["held_out_change_se"].to_numpy()
    # What chains confirm of each other's weights is most of what was wanted, and well beyond its error.
    assert (np.sign(confirmed) == [-1, 1]).all()
    assert (abs(confirmed) > 4 * error).all()
    assert result.attrs["share_negative"] == 0
    after = transformer.sample(result["weight"].to_numpy(), seed=1)
    for number, name in enumerate(wanted):
        chains = [
            each[f"observables/{name}/loss"].mean(["draw", "sequence"]).squeeze().to_numpy() for each in (before, after)
        ]
        change = chains[1].mean() - chains[0].mean()
        its_error = np.sqrt(sum(each.var(ddof=1) / len(each) for each in chains))
        assert np.sign(change) == np.sign(wanted[name])
        assert abs(change) > 4 * its_error
        assert abs(change - confirmed[number]) < 3.5 * np.hypot(its_error, error[number])
