"""The loss kernel of a linear regression, whose posterior is Gaussian and whose correlations of losses are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import devinterp
from devinterp.errors import InvalidInputError
from devinterp_structure import loss_kernel

pytestmark = pytest.mark.heavy
N_BETA, LOCALIZATION, ROWS = 40.0, 2.0, 40


def squared_error(model, batch):
    inputs, targets = batch
    return ((model(inputs) - targets) ** 2).squeeze(1) / 2


class Regression:
    """Rows of two kinds, whose inputs have no dims in common."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(ROWS, 6, generator=generator)
        self.kind = np.arange(ROWS) % 2
        self.inputs[::2, 3:] = 0
        self.inputs[1::2, :3] = 0
        self.targets = self.inputs.sum(1, keepdim=True) + torch.randn(ROWS, 1, generator=generator)
        self.model = nn.Linear(6, 1, bias=False)
        self.model.weight.data = torch.linalg.lstsq(self.inputs, self.targets).solution.T

    def sample(self, **options) -> xr.DataTree:
        data = (self.inputs, self.targets)
        return devinterp.sample(
            self.model, data, {"rows": (data, 1)}, loss_fn=squared_error, sampling_method="baoab", lr=1e-2, n_beta=N_BETA,
            localization=LOCALIZATION, num_chains=6, num_draws=400, num_burnin_steps=200, num_steps_bw_draws=4,
            batch_size=ROWS, progress=False, **options,
        )  # fmt: skip

    def exact(self) -> np.ndarray:
        """Return the kernel: of losses e²/2 with e normal, cov = s² / 2 + e e' s, s the covariance of predictions."""
        inputs = self.inputs.double().numpy()
        residuals = (self.model(self.inputs) - self.targets).detach().double().numpy()[:, 0]
        precision = N_BETA / ROWS * inputs.T @ inputs + LOCALIZATION * np.eye(6)
        shared = inputs @ np.linalg.solve(precision, inputs.T)
        covariance = shared**2 / 2 + np.outer(residuals, residuals) * shared
        spread = np.sqrt(np.diag(covariance))
        return covariance / np.outer(spread, spread)


@pytest.fixture(scope="module")
def problem() -> Regression:
    return Regression()


@pytest.fixture(scope="module")
def tree(problem: Regression) -> xr.DataTree:
    return problem.sample()


def test_the_kernel_is_the_exact_one_within_its_error(problem, tree):
    kernel = loss_kernel(tree)
    rows = tree["observables/rows"].sequence_id.values[np.arange(ROWS)]
    exact = problem.exact()[np.ix_(rows, rows)]
    # 2,400 draws; a correlation r has an error of about (1 - r²) / sqrt(effective draws).
    off = (kernel["kernel"].to_numpy() - exact) / (1.01 - exact**2)
    assert np.sqrt((off**2).mean()) < 0.05
    assert np.corrcoef(kernel["kernel"].to_numpy().ravel(), exact.ravel())[0, 1] > 0.98


def test_group_means_are_exact_within_their_errors_and_kinds_have_nothing_in_common(problem, tree):
    rows = tree["observables/rows"].sequence_id.values
    kinds = np.array(["even", "odd"])[problem.kind[rows]]
    found = tree.slt.loss_kernel(groups=kinds, num_components=2)
    exact = problem.exact()[np.ix_(rows, rows)]
    np.fill_diagonal(exact, np.nan)
    for first in ("even", "odd"):
        for second in ("even", "odd"):
            truth = np.nanmean(exact[np.ix_(kinds == first, kinds == second)])
            mean, error = (
                float(found[name].sel(group=first, other_group=second)) for name in ("group_mean", "group_mean_se")
            )
            assert 0 < error < 0.02
            assert abs(mean - truth) < 4.5 * error
    assert abs(float(found["group_mean"].sel(group="even", other_group="odd"))) < 0.02


def test_components_give_the_centred_kernel_back(tree):
    found = loss_kernel(tree, num_components=ROWS - 1)
    kernel = found["kernel"].to_numpy().astype(float)
    centring = np.eye(ROWS) - 1 / ROWS
    scores = found["score"].to_numpy()
    np.testing.assert_allclose(scores @ scores.T, centring @ kernel @ centring, atol=1e-6)
    assert float(found["explained_variance_ratio"].sum()) == pytest.approx(1)
    assert found.attrs["steps"] == ["loss_kernel(num_components=39, detrend=False)"]


def test_sequences_whose_loss_does_not_vary_are_left_out(problem):
    inputs = problem.inputs.clone()
    inputs[:3] = 0  # the prediction is 0 whatever the weights
    data = (inputs, problem.targets)
    tree = devinterp.sample(
        problem.model, (problem.inputs, problem.targets), {"rows": (data, 1)}, loss_fn=squared_error, lr=1e-3, n_beta=N_BETA,
        num_chains=1, num_draws=20, batch_size=ROWS, progress=False,
    )  # fmt: skip
    found = loss_kernel(tree)
    assert found.sizes["sample"] == ROWS - 3
    assert found.attrs["num_left_out"] == 3
    assert np.isfinite(found["kernel"]).all()
    assert np.isnan(found["group_mean_se"]).all()  # of one chain


def test_bad_input_is_named(problem, tree):
    with pytest.raises(InvalidInputError, match="`groups` must have a label for each of the 40"):
        loss_kernel(tree, groups=["a"] * 3)
    with pytest.raises(InvalidInputError, match="`num_components`"):
        loss_kernel(tree, num_components=40)
    several = problem.sample(weight_restrictions={"a": {"weight": torch.ones(1, 6, dtype=torch.bool)}, "b": None})
    with pytest.raises(InvalidInputError, match="one restriction"):
        loss_kernel(several)
