"""Clusters: planted ones are found, a Gaussian cloud has none, PageRank and conductance are what they say."""

from __future__ import annotations

from typing import ClassVar

import networkx as nx
import numpy as np
import pytest
import xarray as xr
from sklearn.metrics import adjusted_rand_score

from devinterp.errors import InvalidInputError
from devinterp.testing import AnalysisTests
from support.planted_structure import blobs, modes

pytest.importorskip("devinterp_structure", reason="devinterp-structure is not installed")
from devinterp_structure import agreement, clusters, devinterp_analyses, gaussian_null, matrix_of_chains, pca
from devinterp_structure.graph import Graph, conductance_of, conductances, pagerank

ANALYSES = {analysis.name: analysis for analysis in devinterp_analyses()}


class TestClusters(AnalysisTests):
    analysis = ANALYSES["clusters"]
    options: ClassVar = {"sampling_task": "train", "num_neighbours": 5, "min_size": 4, "steps": ("centre_columns",)}

    def tree(self, **options: object) -> xr.DataTree:
        return super().tree(**{"num_restrictions": 4, "num_chains": 3, "num_draws": 14, **options})


def a_graph(seed: int = 0) -> Graph:
    rng = np.random.default_rng(seed)
    return Graph.of(np.array([rng.choice(np.delete(np.arange(60), i), 5, replace=False) for i in range(60)]))


def test_pagerank_solves_its_equation() -> None:
    graph, seed = a_graph(), 7
    assert (graph.adjacency != graph.adjacency.T).nnz == 0
    for alpha in (0.001, 0.2):
        walk = graph.adjacency.toarray() / graph.degree
        exact = np.linalg.solve(np.eye(60) - (1 - alpha) * walk, alpha * (np.arange(60) == seed))
        got = pagerank(graph, seed, alpha, 1e-9)
        np.testing.assert_allclose(got, exact, rtol=1e-5)
        assert got.sum() == pytest.approx(1, abs=1e-6)
    reference = nx.pagerank(nx.from_scipy_sparse_array(graph.adjacency), 0.8, personalization={seed: 1.0}, tol=1e-12)
    np.testing.assert_allclose(got, [reference[i] for i in range(60)], rtol=1e-4)


def test_conductance_is_that_of_networkx() -> None:
    graph = a_graph()
    as_networkx = nx.from_scipy_sparse_array(graph.adjacency)
    order = np.random.default_rng(1).permutation(60)[:40]
    profile = conductances(graph, order)
    expected = [nx.conductance(as_networkx, order[: n + 1], weight="weight") for n in range(40)]
    np.testing.assert_allclose(profile, expected, rtol=1e-9)
    labels = np.full(60, -1)
    labels[order[:15]], labels[order[15:]] = 0, 1
    of_tokens = conductance_of(graph, labels)
    np.testing.assert_allclose(of_tokens[order[:15]], expected[14])
    np.testing.assert_allclose(of_tokens[order[15:]], nx.conductance(as_networkx, order[15:], weight="weight"))
    assert np.isnan(of_tokens[labels < 0]).all()


@pytest.mark.parametrize(("distance", "least"), [(12.0, 1.0), (8.0, 0.99), (6.0, 0.95)])
def test_planted_clusters_are_found(distance: float, least: float) -> None:
    values, true = blobs(4, distance=distance)
    result = clusters(matrix_of_chains(values))
    assert adjusted_rand_score(true, result["cluster"]) >= least
    assert result["cluster"].max() == 3
    assert (result["conductance"].where(result["cluster"] >= 0) < 0.1).sum() == (result["cluster"] >= 0).sum()


def test_clusters_of_different_sizes_are_found_beside_a_background() -> None:
    values, true = blobs(3, size=150, distance=10.0, background=80)
    planted = true >= 0
    result = clusters(matrix_of_chains(values))
    assert adjusted_rand_score(true[planted], result["cluster"][planted]) > 0.97
    uneven = np.flatnonzero((true != 1) | (np.arange(len(true)) % 3 == 0))
    result = clusters(matrix_of_chains(values.isel(token=uneven)))
    kept = true[uneven] >= 0
    assert adjusted_rand_score(true[uneven][kept], result["cluster"][kept]) > 0.97


def test_the_methods_of_scikit_learn_agree_on_shared_ground() -> None:
    values, true = blobs(4, distance=7.0)
    matrix = matrix_of_chains(values)
    results = {
        "pagerank": clusters(matrix),
        "spectral": clusters(matrix, method="spectral", num_clusters=4),
        "components": clusters(pca(matrix, num_components=3)),
    }
    for name, result in results.items():
        score = agreement(result, true)
        assert score["adjusted_rand"] > 0.98, name
        assert score["purity"] > 0.98, name
        assert score["num_tokens"] > 390, name
    assert agreement(results["pagerank"], results["spectral"])["nmi"] > 0.98
    # HDBSCAN, of distances alone, needs clusters farther apart, and leaves out the rims of these.
    values, true = blobs(4, distance=10.0)
    score = agreement(clusters(matrix_of_chains(values), method="hdbscan"), true)
    assert score["adjusted_rand"] > 0.99
    assert score["num_tokens"] > 300


@pytest.mark.parametrize("width", [2, 8])
def test_a_cloud_without_clusters_has_none(width: int) -> None:
    """Neither plain noise nor modes of it: what a Gaussian null of the matrix itself looks like."""
    for seed in range(6):
        planted = modes((3.0, 1.0), width=width, num_tokens=250, seed=seed)
        gaussian = gaussian_null(matrix_of_chains(planted.values), seed=seed)
        assert (clusters(gaussian, seed=100 + seed)["cluster"] == -1).all()
    values, _ = blobs(4, distance=10.0)
    null = gaussian_null(matrix_of_chains(values), seed=3)
    assert (clusters(null)["cluster"] == -1).all()
    assert "gaussian_null(seed=3)" in null.attrs["steps"]


def test_the_null_has_the_moments_of_the_matrix_and_does_not_depend_on_chunks() -> None:
    matrix = matrix_of_chains(modes((3.0, 1.0), num_tokens=5000).values, steps=("z_score", "centre_rows"))
    null = gaussian_null(matrix)
    one, other = (np.cov(each["response"].T) for each in (matrix, null))
    np.testing.assert_allclose(one, other, atol=5 * np.abs(one).max() * np.sqrt(2 / 5000))
    np.testing.assert_allclose(null["response"].sum("restriction"), 0, atol=1e-4)  # centred rows stay so
    lazy = gaussian_null(matrix.chunk({"token": 999}))
    assert lazy["response"].chunks is not None
    np.testing.assert_allclose(lazy["response"], null["response"], atol=1e-3)


@pytest.mark.heavy
def test_agreement_is_that_of_scikit_learn_and_its_error_is_that_of_texts() -> None:
    rng = np.random.default_rng(0)
    errors, scores = [], []
    for _ in range(30):
        texts = np.repeat(np.arange(60), 5)
        true = np.repeat(rng.integers(3, size=60), 5)
        wrong = np.repeat(rng.random(60) < 0.2, 5)  # all tokens of a text are labelled right or wrong together
        got = np.where(wrong, np.repeat(rng.integers(3, size=60), 5), true)
        result = agreement(xr.DataArray(got, dims="token", coords={"text": ("token", texts)}), true)
        scores.append(float(result["adjusted_rand"]))
        errors.append(float(result["adjusted_rand_se"]))
        assert scores[-1] == pytest.approx(adjusted_rand_score(true, got))
    # Over 30 repetitions what the error is is known to 13 %.
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(scores), rel=0.4)
    labels = xr.DataArray(np.array([0, 0, 1, 1, -1]), dims="token")
    assert agreement(labels, np.array(list("aabbb")))["num_tokens"] == 4
    assert float(agreement(labels, np.array(list("aabbb")))["purity"]) == 1
    assert agreement(labels, np.array(list("aabbb")), only_labelled=False)["purity"] == 1
    assert float(agreement(labels, np.array(list("ababa")))["purity"]) == 0.5
    assert np.isnan(agreement(labels, np.full(5, -1))["nmi"])
    with pytest.raises(InvalidInputError, match="same tokens"):
        agreement(labels, np.arange(4))


def test_what_cannot_be_is_said() -> None:
    matrix = matrix_of_chains(blobs(2, size=40)[0])
    for options, message in {
        ("method", "kmeans"): "`method`",
        ("alpha", 1.0): "`alpha`",
        ("min_size", 1): "`min_size`",
        ("num_clusters", 3): "no other method",
        ("method", "spectral"): "needs `num_clusters`",
        ("num_neighbours", 80): "less than the number of tokens",
    }.items():
        with pytest.raises(InvalidInputError, match=message):
            clusters(matrix, **{options[0]: options[1]})
