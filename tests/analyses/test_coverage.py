r"""Estimates and their stated errors, on a target where everything is known.

Weights are stationary Gaussian, :math:`w \sim N(0, \sigma^2)` in each moving coordinate, correlated in time; losses are linear
and quadratic in them, :math:`\ell_x(w) = \ell_x + b_x \cdot w + \tfrac{1}{2} h_x |w|^2`.
"""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from devinterp.analyses.bif import compute_bif
from devinterp.analyses.common.uncertainty import confidence_interval
from devinterp.analyses.llc import compute_llc
from devinterp.analyses.susceptibilities import compute_susceptibilities
from devinterp.testing import synthetic_tree

REPLICAS, CHAINS, DRAWS, WEIGHTS, SIGMA, N_BETA = 200, 8, 100, 4, 0.1, 20.0
SHAPES = {"train": (3, 4), "code": (2, 4)}


class Gaussian:
    """The coefficients of the losses, and what follows from them."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.start, self.slope, self.curve = {}, {}, {}
        for name, (num_sequences, num_tokens) in SHAPES.items():
            shape = (num_sequences, num_tokens - 1)
            self.start[name] = rng.uniform(1, 4, shape)
            self.slope[name] = rng.normal(size=(*shape, WEIGHTS))
            self.curve[name] = rng.uniform(1, 8, shape)

    def tree(self, weights: np.ndarray) -> xr.DataTree:
        """Return a run whose weights ``(restriction, chain, draw, weight)`` these were."""
        num_restrictions, num_chains, num_draws, _ = weights.shape
        tree = synthetic_tree(
            num_restrictions=num_restrictions,
            num_chains=num_chains,
            num_draws=num_draws,
            observables=SHAPES,
            num_tokens=2,
            batch_size=1,
            n_beta=N_BETA,
        )
        squares = (weights**2).sum(-1)[..., None, None]
        for name in SHAPES:
            linear = np.einsum("rcdk,spk->rcdsp", weights, self.slope[name])
            loss = self.start[name] + linear + self.curve[name] / 2 * squares
            tree[f"observables/{name}/loss"].values = loss.astype(np.float32)
            tree[f"observables/{name}/init_loss"].values = self.start[name].astype(np.float32)
        return tree

    def covariance(self, first: str, second: str) -> np.ndarray:
        """Return cov(l_x, l_y) over tokens ``(sequence, sequence, position, position)``."""
        linear = np.einsum("spk,uvk->supv", self.slope[first], self.slope[second]) * SIGMA**2
        quadratic = np.einsum("sp,uv->supv", self.curve[first], self.curve[second]) / 4 * 2 * WEIGHTS * SIGMA**4
        return linear + quadratic

    def correlation(self, first: str, second: str) -> np.ndarray:
        own = [np.sqrt(np.einsum("sspp->sp", self.covariance(name, name))) for name in (first, second)]
        return self.covariance(first, second) / np.einsum("sp,uv->supv", *own)

    def susceptibility(self, moving: np.ndarray) -> np.ndarray:
        """Return chi of the tokens of ``code``, where these weights move."""
        slope, curve = self.slope["train"].mean((0, 1)), self.curve["train"].mean()
        rest = curve - self.curve["code"]
        linear = SIGMA**2 * (slope[moving] * (slope - self.slope["code"])[..., moving]).sum(-1)
        num = moving.sum()
        return linear + curve * rest * SIGMA**4 * num / 2 + curve * rest * SIGMA**4 * num * (num - WEIGHTS) / 4


def _weights(rng: np.random.Generator, num_runs: int) -> np.ndarray:
    noise = rng.normal(size=(num_runs, CHAINS, DRAWS, WEIGHTS))
    for draw in range(1, DRAWS):
        noise[:, :, draw] = 0.5 * noise[:, :, draw - 1] + np.sqrt(0.75) * noise[:, :, draw]
    return SIGMA * noise


def _coverage(result: xr.Dataset, name: str, truth: np.ndarray, dim: str) -> xr.DataArray:
    interval = confidence_interval(result, name)
    return ((interval["lower"] <= truth) & (truth <= interval["upper"])).mean(dim)


def _check(coverage: np.ndarray) -> None:
    assert 0.90 <= float(coverage.mean()) <= 0.98, (
        f"95 % intervals hold the truth {float(coverage.mean()):.1%} of the time"
    )
    # Every single entry too, up to the binomial noise of 200 replicas (3 standard errors).
    assert float(coverage.min()) > 0.90 - 3 * np.sqrt(0.9 * 0.1 / REPLICAS)


@pytest.fixture(scope="module")
def replicas():
    """Two hundred independent runs, side by side as if they were restrictions."""
    return Gaussian().tree(_weights(np.random.default_rng(1), REPLICAS))


@pytest.mark.parametrize("covariance", [True, False])
def test_token_bif(replicas, covariance):
    found = compute_bif(
        replicas, queries="train", candidates="code", compute_covariance=covariance, standard_errors=True
    )
    model = Gaussian()
    truth = model.covariance("train", "code") if covariance else model.correlation("train", "code")
    truth = xr.DataArray(truth, dims=found["influences"].dims[1:])
    _check(_coverage(found, "influences", truth, "restriction"))


@pytest.mark.parametrize(
    "options", [{"method": "sequence", "compute_covariance": True}, {"average_tokenwise_bif": True}]
)
def test_sequence_and_averaged_bif(replicas, options):
    found = compute_bif(replicas, queries="train", candidates="code", standard_errors=True, **options)
    model = Gaussian()
    tokens = model.covariance("train", "code") if "method" in options else model.correlation("train", "code")
    _check(
        _coverage(found, "influences", xr.DataArray(tokens.mean((2, 3)), dims=("batch_1", "batch_2")), "restriction")
    )


@pytest.mark.parametrize("errors", ["jackknife", "ess"])
@pytest.mark.parametrize("estimator", ["single_run", "two_run"])
def test_susceptibilities(estimator, errors):
    model, rng = Gaussian(), np.random.default_rng(2)
    moving = {"full": np.ones(WEIGHTS, bool), "part1": np.array([True, False, True, False])}
    results = []
    for _ in range(REPLICAS):
        weights = _weights(rng, 2)
        weights[1] *= moving["part1"]
        options = {"estimator": estimator, "standard_errors": errors, "initial_loss": "paired"}
        results.append(compute_susceptibilities(model.tree(weights), "train", **options)["labelled"].to_dataset())
    found = xr.concat(results, "replica").sel(observable="code")
    for name, which in moving.items():
        truth = model.susceptibility(which)
        if estimator == "single_run":
            # Without the difference between the two runs' levels.
            num, curve = which.sum(), model.curve["train"].mean()
            truth = truth - curve * (curve - model.curve["code"]) * SIGMA**4 * num * (num - WEIGHTS) / 4
        truth = xr.DataArray(truth, dims=("sequence", "position"))
        _check(_coverage(found.sel(restriction=name), "susceptibility", truth, "replica"))


def test_paired_llc(replicas):
    found = compute_llc(replicas)
    result = xr.Dataset({"llc": found["observable_llc_mean"], "llc_se": found["observable_llc_mcse"]})
    model = Gaussian()
    truth = [N_BETA * model.curve[name].mean() / 2 * WEIGHTS * SIGMA**2 for name in found["observable"].to_numpy()]
    _check(_coverage(result, "llc", xr.DataArray(truth, dims="observable"), "restriction"))
