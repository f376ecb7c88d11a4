"""A model in bfloat16 is sampled as one in float32 would be, although single updates are below its resolution."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn

from devinterp import sample

#: A Gaussian posterior around `START` with precision ``N_BETA``, in steps of an eighth of bfloat16's spacing there.
START, SPACING = 1.25, 2.0**-7
LR, N_BETA = (SPACING / 8) ** 2, 4096.0
NUM, STEPS, CHAINS = 10_000, 400, 2
#: Steps at which the law is checked: by the first of them chains have spread over more than one number of bfloat16.
AT = [200, 300, 399]


class Point(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.w = nn.Parameter(torch.full((NUM,), START, dtype=dtype))


def squares(model, batch):
    """Return half the squared distance from the start, for every row alike, computed in float32."""
    return batch[:, 0] * (model.w.float() - START).square().sum() / 2


def variance():
    r"""Return the variance of a coordinate after each step, :math:`\epsilon (1 - \rho^{2t}) / (1 - \rho^2)`."""
    rho = 1 - LR * N_BETA / 2
    return LR * (1 - rho ** (2 * np.arange(STEPS + 1))) / (1 - rho**2)


@functools.cache
def sampled(dtype, chains):
    """Return squared distances of the master values per coordinate, and losses per coordinate: ``(chain, step)`` each."""
    tree = sample(
        Point(dtype).eval(), torch.ones(4, 1), loss_fn=squares, lr=LR, n_beta=N_BETA, num_chains=CHAINS, num_draws=STEPS,
        batch_size=4, num_init_loss_batches=1, save_metrics=["distance"], chains=chains, progress=False,
    )  # fmt: skip
    distance = tree["metrics/distance"][0].to_numpy()
    return distance**2 / NUM, tree["trace/loss"][0, :, :, 0].to_numpy() / NUM


def naive():
    """Return the same from updates in place of a bfloat16 tensor."""
    generator, w = torch.Generator().manual_seed(100), torch.full((NUM,), START, dtype=torch.bfloat16)
    found = []
    for _ in range(STEPS):
        found.append(float((w.float() - START).square().mean()))
        gradient = w - START
        w += -LR / 2 * N_BETA * gradient + math.sqrt(LR) * torch.randn(NUM, generator=generator).bfloat16()
    return np.array(found)


@pytest.mark.parametrize("chains", ["sequential", "vectorized"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_law_is_that_of_float32(dtype, chains):
    spread, loss = sampled(dtype, chains)
    expected = variance()[AT]
    error = expected * math.sqrt(2 / (NUM * CHAINS))  # of a variance, from independent coordinates
    assert (np.abs(spread.mean(0)[AT] - expected) < 5 * error).all()
    # The loss is of weights rounded to the spacing: that adds a twelfth of its square (Sheppard's correction).
    rounding = SPACING**2 / 12 if dtype == torch.bfloat16 else 0
    assert (np.abs(2 * loss.mean(0)[AT] - expected - rounding) < 5 * error).all()


def test_the_spread_of_rounding_can_be_told_apart():
    """Otherwise the test above would not see whether losses are of the model's own, rounded, weights."""
    assert 1.5 * variance()[-1] * math.sqrt(2 / (NUM * CHAINS)) < SPACING**2 / 12


def test_naive_updates_follow_another_law():
    expected = variance()[:STEPS][AT]
    error = expected * math.sqrt(2 / NUM)
    assert (np.abs(naive()[AT] - expected) > 30 * error).all()


@pytest.mark.parametrize("chains", ["sequential", "vectorized"])
def test_chains_of_both_precisions_stay_together(chains):
    """They have the same noise; only the drift is computed from rounded weights, whose effect does not add up."""
    half, full = (sampled(dtype, chains)[0] for dtype in (torch.bfloat16, torch.float32))
    np.testing.assert_allclose(half[:, AT], full[:, AT], rtol=0.02)


def test_a_masked_parameter_has_masters_too():
    """Elements that move are kept in float32, the others stay as they are."""
    mask = torch.zeros(NUM, dtype=torch.bool)
    mask[::3] = True
    num = int(mask.sum())
    tree = sample(
        Point(torch.bfloat16).eval(), torch.ones(4, 1), loss_fn=squares, lr=LR, n_beta=N_BETA, num_chains=1,
        num_draws=301, batch_size=4, num_init_loss_batches=1, save_metrics=["distance"], chains="sequential",
        param_masks={"w": mask}, progress=False,
    )  # fmt: skip
    spread = tree["metrics/distance"][0, 0].to_numpy()[[200, 300]] ** 2 / num
    expected = variance()[[200, 300]]
    assert (np.abs(spread - expected) < 5 * expected * math.sqrt(2 / num)).all()
    loss = tree["trace/loss"][0, 0, 300, 0].item() / num
    assert abs(2 * loss - expected[1] - SPACING**2 / 12) < 5 * expected[1] * math.sqrt(2 / num)
