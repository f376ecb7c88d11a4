"""Slopes of learning coefficients from one run, against closed forms and quadrature."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

from devinterp import sample
from devinterp.analyses.sensitivity import sensitivity
from devinterp.errors import MissingDataError
from devinterp.testing import synthetic_tree
from support.small_models import ids, run

N_BETA, GAMMA = 20.0, 10.0
H = np.array([0.5, 1.0, 2.0, 4.0])


class Weights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.weights


def power(exponent: int) -> Any:
    def loss(model: nn.Module, batch: Any) -> Tensor:
        w = model.weights
        return (torch.tensor(H, dtype=torch.float32) * w**exponent).sum() / 2 + batch[0] @ w

    return loss


DATA = (torch.zeros(2, 4),)
#: Powers of the loss and localizations that are not left to the slow tests.
MARKS = {(4, GAMMA): (), (2, 1.0): pytest.mark.heavy, (6, 25.0): pytest.mark.heavy}


def sampled(loss: Any, data: Any = DATA, observables: Any = None, **changes: Any) -> xr.DataTree:
    settings: dict[str, Any] = {
        "lr": 1e-2,
        "n_beta": N_BETA,
        "localization": GAMMA,
        "num_chains": 64,
        "num_burnin_steps": 100,
        "num_draws": 400,
        "batch_size": 2,
        "num_init_loss_batches": 1,
        "sampling_method": "baoab",
        "chains": "vectorized",
        "progress": False,
    }
    tree = sample(Weights(), data, observables, loss_fn=loss, **{**settings, **changes})
    assert isinstance(tree, xr.DataTree)
    return tree


def moments(exponent: int, n_beta: float, gamma: float) -> tuple[float, float, float]:
    """Return E L, Cov(L, |w|^2) and Var L, each coordinate by quadrature."""
    w = np.linspace(-4, 4, 40_001)
    mean = covariance = variance = 0.0
    for h in H:
        loss = h * w**exponent / 2
        density = np.exp(-n_beta * loss - gamma / 2 * w**2)
        density /= density.sum()
        mean += density @ loss
        covariance += density @ (loss * w**2) - (density @ loss) * (density @ w**2)
        variance += density @ loss**2 - (density @ loss) ** 2
    return float(mean), float(covariance), float(variance)


def slopes(exponent: int, n_beta: float = N_BETA, gamma: float = GAMMA) -> tuple[float, float]:
    mean, covariance, variance = moments(exponent, n_beta, gamma)
    return -gamma / 2 * covariance / mean, 1 - n_beta * variance / mean


@pytest.mark.parametrize("exponent", [2, 4])
def test_they_are_derivatives_of_the_coefficient(exponent: int) -> None:
    def log_llc(n_beta: float, gamma: float) -> float:
        return float(np.log(n_beta * moments(exponent, n_beta, gamma)[0]))

    step = 1e-3
    up, down = np.exp(step), np.exp(-step)
    s_gamma = (log_llc(N_BETA, GAMMA * up) - log_llc(N_BETA, GAMMA * down)) / (2 * step)
    s_beta = (log_llc(N_BETA * up, GAMMA) - log_llc(N_BETA * down, GAMMA)) / (2 * step)
    np.testing.assert_allclose((s_gamma, s_beta), slopes(exponent), rtol=1e-5)
    np.testing.assert_allclose(-s_gamma / s_beta, exponent / 2, rtol=1e-5)  # homogeneous of this degree


def assert_slopes(result: xr.Dataset, expected: tuple[float, float], prefix: str = "", errors: float = 4.0) -> None:
    for name, value in zip((f"{prefix}s_gamma", f"{prefix}s_beta"), expected, strict=True):
        error = float(result[f"{name}_se"].squeeze())
        assert error < 0.1
        assert abs(float(result[name].squeeze()) - value) < errors * error, name


@pytest.mark.parametrize(
    ("exponent", "gamma"),
    [
        pytest.param(exponent, gamma, marks=MARKS.get((exponent, gamma), pytest.mark.slow))
        for exponent in (2, 4, 6)
        for gamma in (1.0, GAMMA, 25.0)
    ],
)
def test_of_homogeneous_losses(exponent: int, gamma: float) -> None:
    lr = min(5e-3, 0.3 / gamma)
    burnin = int(12 / np.sqrt(lr * gamma)) + 60
    tree = sampled(power(exponent), lr=lr, localization=gamma, num_burnin_steps=burnin)
    assert_slopes(sensitivity(tree), slopes(exponent, gamma=gamma))


def test_at_a_large_localization_the_coefficient_is_its_work() -> None:
    s_gamma, s_beta = slopes(2, n_beta=0.01, gamma=1000.0)
    assert s_gamma < -0.99
    assert abs(s_beta + s_gamma) < 1e-3


def test_of_an_observable() -> None:
    tree = sampled(power(4), observables={"same": ((torch.zeros(2, 4),), 1)}, num_draws=200)
    assert_slopes(sensitivity(tree), slopes(4), "observable_")


def test_the_noise_of_minibatches_is_left_out() -> None:
    rows = 0.5 * torch.randn(800, 4, generator=torch.Generator().manual_seed(0))
    rows -= rows.mean(0)
    options = {"num_draws": 500, "num_chains": 48, "match_sampling_input_ids_across_chains": False}
    tree = sampled(power(2), (rows,), lr=1e-3, num_burnin_steps=100, batch_size=4, **options)
    result = sensitivity(tree)
    assert_slopes(result, slopes(2), errors=4)
    noisy = tree["trace/loss"].mean("batch").isel(step=slice(100, None)).astype(float)
    assert N_BETA * float(noisy.var()) / moments(2, N_BETA, GAMMA)[0] > 1.5  # else nothing was left out


@pytest.mark.heavy
def test_of_few_minibatches_the_error_says_how_little_is_known() -> None:
    rows = torch.randn(32, 4, generator=torch.Generator().manual_seed(1))
    rows -= rows.mean(0)
    tree = sampled(power(2), (rows,), lr=1e-3, batch_size=4)
    result = sensitivity(tree)
    assert float(result["s_beta_se"]) > 1
    assert abs(float(result["s_beta"]) - slopes(2)[1]) < 4 * float(result["s_beta_se"])


@pytest.mark.heavy
def test_noise_of_another_level() -> None:
    # Sampled is the density exp(-U / level^2).
    level = 1.5
    tree = sampled(power(4), lr=5e-3, noise_level=level)
    assert_slopes(sensitivity(tree), slopes(4, N_BETA / level**2, GAMMA / level**2))


@pytest.mark.parametrize("record", ["token", "sequence", "moments"])
def test_what_is_recorded_makes_no_difference(record: str) -> None:
    options: dict[str, Any] = {"num_draws": 30, "num_steps_bw_draws": 2, "record": record, "paired": True}
    result = sensitivity(run(observables={"watched": ids()}, **options))
    expected = sensitivity(run(observables={"watched": ids()}, **{**options, "record": "token"}))
    for name in expected.data_vars:
        if record == "moments" and str(name).startswith("s_beta"):
            assert np.isnan(result[name])
        else:
            np.testing.assert_allclose(result[name], expected[name], rtol=1e-3)


def test_it_says_what_it_lacks() -> None:
    with pytest.raises(MissingDataError, match="metrics/virial_square"):
        synthetic_tree().slt.sensitivity()
    with pytest.raises(MissingDataError, match="noise_level"):
        sensitivity(run(noise_level=0.0))
    with pytest.raises(MissingDataError, match="paired=True"):
        sensitivity(run(paired=False))
