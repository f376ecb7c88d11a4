"""Against the exact value of a regular model, and the suite that every analysis has to pass."""

from typing import ClassVar

import pytest
import torch
from singular_fluctuation import devinterp_analyses

import devinterp
from devinterp.testing import AnalysisTests

NUM, DIM = 2000, 5


class TestSuite(AnalysisTests):
    """What the package asks of every analysis."""

    analysis = devinterp_analyses()[0]
    options: ClassVar = {"observable": "train"}


def test_linear_regression_has_half_its_weights() -> None:
    """Variances of losses are chi-squared to first order, so the mean over 2,000 rows is within a few percent."""
    generator = torch.Generator().manual_seed(0)
    inputs, noise = torch.randn(NUM, DIM, generator=generator), torch.randn(NUM, 1, generator=generator)
    targets = inputs.sum(1, keepdim=True) + noise
    model = torch.nn.Linear(DIM, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.linalg.lstsq(inputs, targets).solution.mT)
    tree = devinterp.sample(
        model,
        (inputs, targets),
        {"rows": ((inputs, targets), 1)},
        batch_size=NUM,
        n_beta=float(NUM),
        lr=1e-4,
        num_draws=300,
        num_steps_bw_draws=3,
        num_burnin_steps=100,
        sampling_method="baoab",
        num_init_loss_batches=1,
        loss_fn=lambda model, batch: (model(batch[0]) - batch[1]).square().sum(1) / 2,
    )
    value = float(tree.slt.singular_fluctuation(observable="rows")["singular_fluctuation"].squeeze())
    assert value == pytest.approx(DIM / 2, rel=0.1)
