"""Principal components: planted modes are found, noise is not, errors cover, methods agree."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import xarray as xr
from scipy import stats
from sklearn.decomposition import PCA

from devinterp.analyses.common.uncertainty import confidence_interval
from devinterp.errors import InvalidInputError
from devinterp.testing import AnalysisTests, synthetic_tree
from support.planted_structure import Planted, modes

pytest.importorskip("devinterp_structure", reason="devinterp-structure is not installed")
from devinterp_structure import devinterp_analyses, matrix_of_chains, pca
from devinterp_structure.column_moments import of_block
from devinterp_structure.signal_variance import SignalVariance, signal_variance

ANALYSES = {analysis.name: analysis for analysis in devinterp_analyses()}
REPLICAS = 200


class TestPca(AnalysisTests):
    analysis = ANALYSES["pca"]
    options: ClassVar = {"sampling_task": "train", "num_components": 2, "steps": ("z_score",)}
    tolerance = 1e-3

    def tree(self, **options: object) -> xr.DataTree:
        return super().tree(**{"num_restrictions": 4, "num_chains": 3, "num_draws": 14, **options})


def shared(planted: Planted, num_components: int) -> SignalVariance:
    """Return what `pca` says of the variance that chains share, at the price of the arithmetic alone."""
    chains = planted.values.to_numpy()
    left_out = (chains.sum(0) - chains) / (len(chains) - 1)
    moments = of_block(np.moveaxis(left_out, 0, 1).reshape(left_out.shape[1], -1))
    return signal_variance(moments, len(chains), num_components)


@pytest.mark.parametrize("size", [0.7, 1.5, 6.0])
def test_planted_modes_are_found_at_several_ratios_of_signal_to_noise(size: float) -> None:
    planted = modes((size, size / 2), num_tokens=2000, width=10)
    result = pca(matrix_of_chains(planted.values), num_components=5)
    along = np.abs(result["loading"].to_numpy()[:2] @ planted.directions)
    # The angle that noise of variance 1/4 in each direction makes, about (1/4 / size²)·sqrt(8/2000), twice.
    assert along[0, 0] > 0.98
    assert along[1, 1] > (0.9 if size < 1 else 0.97)
    true = np.array([size**2, size**2 / 4, 0, 0, 0])
    error = result["signal_variance_se"].to_numpy()
    assert (np.abs(result["signal_variance"] - true) < 5 * error).all()
    # The plain variance holds the noise too: a fourth of it, with four chains.
    noise = result["explained_variance"] - result["signal_variance"]
    np.testing.assert_allclose(noise, 0.25, atol=0.05)
    correlation = np.corrcoef(result["score"][:, 0], planted.scores[:, 0])[0, 1]
    assert abs(correlation) > np.sqrt(size**2 / (size**2 + 0.25)) - 0.02


@pytest.mark.heavy
@pytest.mark.parametrize(("num_chains", "noise_rank"), [(4, 0), (4, 15), (8, 15)])
def test_where_there_is_only_noise_nothing_is_found(num_chains: int, noise_rank: int) -> None:
    """Also where noise has few effective draws, so that the first component explains a large part of the variance."""
    results = [
        shared(modes((0.0,), num_chains=num_chains, num_tokens=150, noise_rank=noise_rank, seed=seed), 3)
        for seed in range(REPLICAS)
    ]
    values = np.array([each.components for each in results])
    errors = np.array([each.components_se for each in results])
    # No bias, although components are chosen for their variance.
    assert (np.abs(values.mean(0)) < 4 * values.std(0) / np.sqrt(REPLICAS)).all()
    beyond = values - stats.t.ppf(0.975, num_chains - 1) * errors > 0
    assert (beyond.mean(0) <= 0.025 + 3 * np.sqrt(0.025 / REPLICAS)).all()
    planted = modes((0.0,), num_chains=num_chains, num_tokens=150, noise_rank=noise_rank)
    result = pca(matrix_of_chains(planted.values), num_components=3)
    assert result["explained_variance_ratio"][0] > 1 / 8  # which by itself would look like something


@pytest.mark.heavy
@pytest.mark.parametrize(("sizes", "num_chains"), [((1.0, 0.6), 4), ((3.0, 1.5), 4), ((3.0, 1.5), 8)])
def test_the_stated_interval_covers(sizes: tuple[float, float], num_chains: int) -> None:
    quantile = stats.t.ppf(0.975, num_chains - 1)
    inside, inside_total = np.zeros(2), 0
    for seed in range(REPLICAS):
        result = shared(modes(sizes, num_chains=num_chains, num_tokens=150, width=6, seed=seed), 2)
        inside += np.abs(result.components - np.square(sizes)) < quantile * result.components_se
        inside_total += abs(result.total - np.square(sizes).sum()) < quantile * result.total_se
    share = np.array([*inside, inside_total]) / REPLICAS
    assert ((share >= 0.90) & (share <= 0.995)).all(), share
    assert 0.90 <= share[0] <= 0.98


def test_what_is_stated_is_what_the_arithmetic_gives() -> None:
    planted = modes((2.0, 1.0), num_chains=5)
    result = pca(matrix_of_chains(planted.values), num_components=3)
    expected = shared(planted, 3)
    np.testing.assert_allclose(result["signal_variance"], expected.components, rtol=1e-4)
    np.testing.assert_allclose(result["signal_variance_se"], expected.components_se, rtol=1e-3)
    # Unbiased for fixed data: the mean over pairs of chains of the trace of their covariance.
    chains = planted.values.to_numpy() - planted.values.to_numpy().mean(1, keepdims=True)
    pairs = [np.trace(a.T @ b) / 300 for i, a in enumerate(chains) for j, b in enumerate(chains) if i != j]
    assert float(result["total_signal_variance"]) == pytest.approx(np.mean(pairs), rel=1e-4)
    interval = confidence_interval(result, "signal_variance")  # with Student's quantile for four degrees of freedom
    half = (interval["upper"] - interval["lower"]) / 2
    np.testing.assert_allclose(half, stats.t.ppf(0.975, 4) * result["signal_variance_se"], rtol=1e-6)


@pytest.mark.parametrize("method", ["covariance", "randomised", "incremental"])
@pytest.mark.parametrize("chunks", [None, {"token": 77, "restriction": 3}])
def test_methods_agree_with_scikit_learn(method: str, chunks: dict[str, int] | None) -> None:
    values = modes((3.0, 2.0, 1.5), noise=0.3).values
    matrix = matrix_of_chains(values if chunks is None else values.chunk(chunks))
    result = pca(matrix, num_components=3, method=method).compute()
    reference = PCA(3).fit(values.mean("chain"))
    loose = 0.02 if method == "incremental" else 1e-4
    overlap = np.abs(np.einsum("kr,kr->k", result["loading"], reference.components_))
    np.testing.assert_allclose(overlap, 1, atol=loose)
    np.testing.assert_allclose(result["explained_variance_ratio"], reference.explained_variance_ratio_, rtol=loose)
    np.testing.assert_allclose(result["loading"] @ result["loading"].T.rename(component="c2"), np.eye(3), atol=1e-6)
    variance = result["score"].var("token")
    np.testing.assert_allclose(variance, result["explained_variance"], rtol=1e-3)
    largest = np.abs(result["loading"]).argmax("restriction")
    assert (result["loading"].isel(restriction=largest) > 0).all()
    again = pca(matrix, num_components=3, method=method)
    np.testing.assert_array_equal(again["loading"], result["loading"])


def test_signs_and_components_do_not_depend_on_the_order_of_tokens() -> None:
    planted = modes((3.0, 2.0)).values
    order = np.random.default_rng(0).permutation(planted.sizes["token"])
    one = pca(matrix_of_chains(planted), num_components=2)
    other = pca(matrix_of_chains(planted.isel(token=order)), num_components=2)
    np.testing.assert_allclose(one["loading"], other["loading"], atol=1e-5)
    np.testing.assert_allclose(one["score"].isel(token=order), other["score"], atol=1e-4)


def test_a_basis_puts_checkpoints_into_one_space() -> None:
    late, early = modes((3.0, 2.0), seed=1), modes((3.0, 2.0), seed=1)
    grown = early.values * 0.5 + 1.0  # the same modes, half as large, somewhere else
    basis = pca(matrix_of_chains(late.values), num_components=2)
    result = pca(matrix_of_chains(grown), basis=basis)
    np.testing.assert_array_equal(result["loading"], basis["loading"])
    shift = basis["loading"].sum("restriction") + (0.5 - 1) * (basis["column_mean"] * basis["loading"]).sum(
        "restriction"
    )
    expected = 0.5 * basis["score"] + shift
    np.testing.assert_allclose(result["score"], expected.transpose("token", "component"), atol=1e-3)
    np.testing.assert_allclose(result["signal_variance"], 0.25 * np.array([9, 4]), rtol=0.05)
    assert "given basis" in result.attrs["steps"][-1]
    # Columns are matched by name; others are refused.
    turned = matrix_of_chains(grown).isel(restriction=slice(None, None, -1))
    np.testing.assert_allclose(pca(turned, basis=basis)["score"], result["score"], atol=1e-4)
    with pytest.raises(InvalidInputError, match="'l0h7'"):
        pca(matrix_of_chains(grown.isel(restriction=slice(0, 7))), basis=basis)


def test_of_runs_with_one_basis_scores_are_joined() -> None:
    runs = {name: synthetic_tree(num_restrictions=5, n_beta=beta, seed=1) for name, beta in (("a", 10.0), ("b", 20.0))}
    basis = runs["b"].slt.pca(sampling_task="train", num_components=2)
    joined = xr.DataTree.from_dict(runs).slt.pca(sampling_task="train", basis=basis)
    assert joined["score"].sizes == {"n_beta": 2, "token": 48, "component": 2}
    np.testing.assert_allclose(joined["score"].sel(n_beta=20.0), basis["score"], atol=1e-4)


def test_with_few_chains_errors_are_missing_and_say_why() -> None:
    values = modes((3.0, 2.0)).values
    two = pca(matrix_of_chains(values.isel(chain=slice(0, 2))), num_components=2)
    assert np.isfinite(two["signal_variance"]).all()
    assert np.isnan(two["signal_variance_se"]).all()
    assert "at least three" in two["signal_variance_se"].attrs["reason"]
    one = pca(matrix_of_chains(values.isel(chain=[0])), num_components=2)
    assert np.isnan(one["signal_variance"]).all()
    assert np.isfinite(one["explained_variance"]).all()
    assert "signal_variance" not in pca(matrix_of_chains(values), num_components=2, standard_errors="none")


def test_steps_go_on() -> None:
    matrix = matrix_of_chains(modes((3.0, 2.0)).values, steps=("z_score", "centre_rows"))
    steps = pca(matrix, num_components=2, method="randomised", seed=3).attrs["steps"]
    assert steps == [
        "given(chains=4)", "z_score", "centre_rows", "pca(num_components=2, method='randomised', seed=3)",
    ]  # fmt: skip


def test_what_cannot_be_is_said() -> None:
    matrix = matrix_of_chains(modes((3.0, 2.0)).values)
    with pytest.raises(InvalidInputError, match="at most the number of restrictions, 8"):
        pca(matrix, num_components=9)
    assert pca(matrix).sizes["component"] == 8  # the default is what there is
    with pytest.raises(InvalidInputError, match="`method`"):
        pca(matrix, method="svd")
    with pytest.raises(InvalidInputError, match="result of `pca`"):
        pca(matrix, basis=matrix)
