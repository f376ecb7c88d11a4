r"""Estimates and their stated errors, on a target where everything is known.

Weights are stationary Gaussian, :math:`w \sim N(0, \sigma^2)` in each moving coordinate, correlated in time; losses are linear
and quadratic in them, :math:`\ell_x(w) = \ell_x + b_x \cdot w + \tfrac{1}{2} h_x |w|^2`.
"""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy.signal import lfilter

from devinterp.analyses.bif import compute_bif
from devinterp.analyses.common.mean_error import common_share, half_width
from devinterp.analyses.common.prewhitening import draw_correlation, kept_power
from devinterp.analyses.common.uncertainty import confidence_interval
from devinterp.analyses.llc import compute_llc, token_llc
from devinterp.analyses.susceptibilities import compute_susceptibilities
from devinterp.testing import synthetic_tree
from support import coverage

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


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("estimator", "errors"),
    [
        ("single_run", "ess"),
        ("two_run", "jackknife"),
        pytest.param("single_run", "jackknife", marks=pytest.mark.slow),
        pytest.param("two_run", "ess", marks=pytest.mark.slow),
    ],
)
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


def test_llc_of_observables_and_tokens(replicas):
    result, model = compute_llc(replicas), Gaussian()
    truth = [N_BETA * model.curve[name].mean() / 2 * WEIGHTS * SIGMA**2 for name in result["observable"].to_numpy()]
    _check(_coverage(result, "observable_llc_mean", xr.DataArray(truth, dims="observable"), "restriction"))
    truth = N_BETA * model.curve["code"] / 2 * WEIGHTS * SIGMA**2
    tokens = token_llc(replicas, "code")
    _check(_coverage(tokens, "llc", xr.DataArray(truth, dims=("sequence", "position")), "restriction"))


def _check_cells(measured: list[tuple[coverage.Cell, dict[str, coverage.Estimates]]], lowest: float = 0.90) -> None:
    for name in measured[0][1]:
        held = np.array([estimates[name].coverage for _, estimates in measured])
        assert 0.93 <= held.mean() <= 0.97, f"{name}: {held.mean():.1%}"
        num = len(measured[0][1][name].value)
        noise = [3 * np.sqrt(p * (1 - p) / num) for p in (lowest, 0.98)]
        for (cell, _), one in zip(measured, held, strict=True):
            assert lowest - noise[0] <= one <= 0.98 + noise[1], f"{name} {one:.1%}: {cell}"


@pytest.mark.heavy
def test_a_part_of_the_grid():
    """Shared and own minibatches, padded and unpadded; twenty epochs in 20 draws, one in 100."""
    few = coverage.cells(batch_sizes=(4,), draws=(20,), epochs=(20,))
    _check_cells([(cell, coverage.measure(cell, REPLICAS)) for cell in few])
    more = coverage.cells(batch_sizes=(4,), draws=(100,), epochs=(1,))
    _check_cells([(cell, coverage.measure(cell, REPLICAS)) for cell in more])


@pytest.mark.slow
def test_the_grid():
    _check_cells(coverage.print_table(num_replicas=REPLICAS))
    # Chains of at least ten autocorrelation times.
    _check_cells(coverage.print_table(coverage.cells(draws=(200, 500), autocorrelations=(0.9,)), REPLICAS), 0.88)


def test_a_single_short_chain():
    """The cosines of 20 draws are not slow: taken as they are, they miss a fifth of the long-run variance."""
    rng = np.random.default_rng(0)
    cell = coverage.Cell(1, True, 4, 20, 1, False)
    for linear in (True, False):
        measured = coverage.fixed_data_estimates(rng, cell, 4000, linear=linear)
        assert 0.915 <= measured.coverage <= 0.95
        # Not by being wide: half the intervals are less than 1.5 times those of a known standard deviation.
        assert measured.ratio * measured.reach < 1.5 * 1.96


def test_prewhitening_knows_what_cosines_miss():
    rng, num_draws = np.random.default_rng(0), 300
    for truth in (0.5, 0.8):
        series = coverage.autoregression(rng, (2000, 2, num_draws, 1), truth)[..., 0]
        assert abs(draw_correlation(series - series.mean(-1, keepdims=True)).mean() - truth) < 0.01
        short = series[..., :30] - series[..., :30].mean(-1, keepdims=True)
        assert abs(draw_correlation(short).mean() - truth) < 0.05
        angles = np.pi * np.arange(1, 25) * (np.arange(num_draws)[:, None] + 0.5) / num_draws
        power = ((series @ np.cos(angles)) ** 2).mean((0, 1)) * 2 / num_draws
        long_run = (1 + truth) / (1 - truth)
        np.testing.assert_allclose(power / long_run, kept_power(truth, num_draws, 24), rtol=0.12)
    assert (draw_correlation(np.zeros((3, 2, 30))) < 0.05).all()
    np.testing.assert_array_equal(kept_power(0.0, 30, 4), 1)


@pytest.mark.parametrize("num_draws", [4, 6, 9])
@pytest.mark.parametrize("num_chains", [2, 4, 16])
def test_few_draws(num_chains, num_draws):
    rng = np.random.default_rng(num_draws)
    for shared in (True, False):
        cell = coverage.Cell(num_chains, shared, 4, num_draws, 1, False)
        held = coverage.fixed_data_estimates(rng, cell, 1000, linear=False).coverage
        assert 0.92 <= held <= 0.99


@pytest.mark.parametrize("num_chains", [4, 16])
def test_a_slow_signal_under_white_noise(num_chains):
    rng = np.random.default_rng(0)
    for shared in (True, False):
        cell = coverage.Cell(num_chains, shared, 4, 100, 1, False, autocorrelation=0.97)
        held = coverage.fixed_data_estimates(rng, cell, 1000, linear=True, white=10.0).coverage
        assert 0.90 <= held <= 0.98


@pytest.mark.parametrize(("num_chains", "share"), [(2, 0.0), (2, 0.5), (4, 0.2), (4, 0.5), (16, 0.2), (16, 0.9)])
@pytest.mark.parametrize("correlation", [0.0, 0.8])
def test_the_share_of_the_error_that_chains_have_in_common(num_chains, share, correlation):
    """Autoregressive chains with white noise in common: the variance of a mean is (own·tau/chains + common) / draws."""
    rng = np.random.default_rng(num_chains)
    innovations = rng.standard_normal((300, num_chains, 600)) * np.sqrt(1 - correlation**2)
    own = lfilter([1.0], [1.0, -correlation], innovations)[..., 200:]
    common = rng.standard_normal((300, 1, 400))
    found = common_share(np.sqrt(1 - share) * own + np.sqrt(share) * common)
    expected = share / (share + (1 - share) * (1 + correlation) / (1 - correlation) / num_chains)
    assert abs(found.mean() - expected) < 4 * found.std() / np.sqrt(300) + 0.03 * expected + 0.01
    assert ((found >= 0) & (found <= 1)).all()
    if share == 0:
        assert (found == 0).mean() > 0.95


def test_weights_that_the_same_minibatches_drive():
    """Five percent of the variance of the weights is common to all chains."""
    rng = np.random.default_rng(0)
    for num_chains in (4, 16):
        cell = coverage.Cell(num_chains, True, 4, 100, 1, False)
        for linear in (True, False):
            held = coverage.fixed_data_estimates(rng, cell, 1000, linear=linear, common=0.05).coverage
            assert 0.90 <= held <= 0.98


@pytest.mark.parametrize(
    "cell",
    [
        coverage.Cell(4, True, 4, 40, 0.5, True),
        coverage.Cell(3, False, 4, 50, 1, True),
        coverage.Cell(1, True, 4, 20, 20, True),
        coverage.Cell(16, True, 8, 60, 5, False),
    ],
    ids=str,
)
def test_the_grid_measures_what_compute_llc_states(cell):
    replica = coverage.Replica.of(cell, np.random.default_rng(0))
    estimates, result = coverage.llc_estimates(cell, [replica]), compute_llc(replica.tree(cell))
    for name, one in estimates.items():
        np.testing.assert_allclose(result[f"{name}_mean"], one.value[0], rtol=1e-9)
        np.testing.assert_allclose(result[f"{name}_se"], one.error[0], rtol=1e-9)
        degrees = result[f"{name}_se"].attrs.get("degrees_of_freedom", np.inf)
        np.testing.assert_allclose(half_width(degrees), one.reach)
