"""Scores of attribution: where the right answer is known, and the errors against repeated draws of the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy.stats import spearmanr

from devinterp.errors import InvalidInputError
from devinterp_attribution import lds, leave_one_out_correlation, mean_reciprocal_rank, mislabel_auc, recall_at_k

NUM_QUERIES, NUM_CANDIDATES, NUM_SUBSETS = 10, 30, 60


def planted(seed: int, *, num_seeds: int = 4, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Additive influences, half of the candidates in each subset, and the losses after retraining, with noise of each seed."""
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(NUM_QUERIES, NUM_CANDIDATES))
    members = generator.random((NUM_SUBSETS, NUM_CANDIDATES)).argsort(1) < NUM_CANDIDATES // 2
    truth = -scores @ members.T
    losses = truth.T[:, None] + noise * generator.normal(size=(NUM_SUBSETS, num_seeds, NUM_QUERIES))
    return scores, losses, members


def test_of_exact_scores_it_is_one() -> None:
    scores, losses, members = planted(0)
    result = lds(scores, losses, members)
    assert result["lds"] == pytest.approx(1)
    assert result["ceiling"] == pytest.approx(1)
    assert lds(-scores, losses, members)["lds"] == pytest.approx(-1)
    opposite = lds(xr.DataArray(scores.T, dims=("candidate", "query")), losses, members)
    xr.testing.assert_identical(opposite, result)


def test_it_is_the_rank_correlation_of_each_query() -> None:
    scores, losses, members = planted(1, noise=3.0)
    each = [spearmanr(scores[q] @ members.T, -losses[:, :, q].mean(1)).statistic for q in range(NUM_QUERIES)]
    np.testing.assert_allclose(lds(scores, losses, members)["lds_per_query"], each)


@pytest.mark.parametrize("noise", [1.0, 4.0, 8.0])
def test_the_ceiling_is_what_exact_scores_reach(noise: float) -> None:
    results = [lds(*planted(seed, noise=noise), num_resamples=20) for seed in range(40)]
    reached, shares = (np.array([float(result[name]) for result in results]) for name in ("lds", "reliability"))
    root = np.sqrt(shares.mean())
    error = np.hypot(reached.std(ddof=1), shares.std(ddof=1) / (2 * root)) / np.sqrt(len(results))
    assert abs(reached.mean() - root) < 0.02 + 4 * error
    assert root < 0.99
    known = [result for result in results if not np.isnan(result["ceiling"])]
    assert len(known) >= 35
    for result in known[:3]:
        assert result["ceiling"] == pytest.approx(np.sqrt(result["reliability"]))


def test_losses_of_nothing_but_noise_have_no_ceiling() -> None:
    tables = [np.random.default_rng(seed).normal(size=(NUM_SUBSETS, 2, NUM_QUERIES)) for seed in range(40)]
    scores, _, members = planted(0)
    results = [lds(scores, losses, members, num_resamples=50) for losses in tables]
    shares = np.array([float(result["reliability"]) for result in results])
    # The mean of one over an estimated variance is larger than one over its mean, by 2 / (subsets - 1) of it.
    assert abs(shares.mean() + 2 / (NUM_SUBSETS - 1)) < 4 * shares.std(ddof=1) / np.sqrt(len(shares))
    unknown = [result for result in results if np.isnan(result["ceiling"])]
    assert len(unknown) >= 36
    assert all("seeds" in result["ceiling"].attrs["reason"] for result in unknown)


def test_errors_hold_where_scores_are_partly_right() -> None:
    """The mean of many tables is the truth; intervals cover it, and are wider than needed rather than too narrow."""
    results = []
    for seed in range(60):
        scores, losses, members = planted(seed, noise=4.0)
        results.append(
            lds(scores + np.random.default_rng(500 + seed).normal(size=scores.shape), losses, members, num_resamples=60)
        )
    means, errors = (np.array([float(result[name]) for result in results]) for name in ("lds", "lds_se"))
    assert np.mean(abs(means - means.mean()) < 1.96 * errors) >= 0.86  # 95 % less three errors of sixty trials


@pytest.mark.heavy
def test_random_scores_have_none_and_errors_hold() -> None:
    """Of scores that say nothing the interval covers 0; it is wider than needed rather than too narrow."""
    covered = []
    for seed in range(100):
        _, losses, members = planted(seed, noise=1.0)
        scores = np.random.default_rng(1000 + seed).normal(size=(NUM_QUERIES, NUM_CANDIDATES))
        result = lds(scores, losses, members, num_resamples=60)
        covered.append(abs(float(result["lds"])) < 1.96 * float(result["lds_se"]))
    assert np.mean(covered) >= 0.89  # 95 % less three errors of a hundred trials


def test_one_seed_and_constant_scores_are_named() -> None:
    scores, losses, members = planted(2, num_seeds=1)
    result = lds(scores, losses, members, num_resamples=4)
    assert np.isnan(result["ceiling"])
    assert "seed" in result["ceiling"].attrs["reason"]
    scores[0] = 0
    result = lds(scores, losses, members, num_resamples=4)
    assert np.isnan(result["lds_per_query"][0])
    assert "1 of 10 queries" in result["lds"].attrs["reason"]
    assert result["lds"] == pytest.approx(1)


def test_influence_functions_of_a_linear_regression() -> None:
    """Retrained without one sample, least squares are known in closed form, and first-order influences rank them well."""
    generator = np.random.default_rng(0)
    inputs, queries = generator.normal(size=(40, 3)), generator.normal(size=(12, 3))
    outputs = inputs @ [1.0, -2.0, 0.5] + generator.normal(size=40)
    answers = queries @ [1.0, -2.0, 0.5]

    def losses(kept: np.ndarray) -> np.ndarray:
        solved = np.linalg.lstsq(inputs[kept], outputs[kept], rcond=None)[0]
        return (queries @ solved - answers) ** 2 / 2

    solved = np.linalg.lstsq(inputs, outputs, rcond=None)[0]
    slopes = inputs * (inputs @ solved - outputs)[:, None]
    of_queries = queries * (queries @ solved - answers)[:, None]
    scores = of_queries @ np.linalg.solve(inputs.T @ inputs, slopes.T)
    without = np.stack([losses(np.arange(40) != j) for j in range(40)])[:, None]
    assert leave_one_out_correlation(scores, without, num_resamples=20)["correlation"] > 0.95
    members = generator.random((50, 40)).argsort(1) < 30
    retrained = np.stack([losses(kept) for kept in members])[:, None]
    assert lds(scores, retrained, members, num_resamples=20)["lds"] > 0.6


def test_recall_and_reciprocal_ranks() -> None:
    scores = np.array([[0.9, 0.5, 0.1, 0.0], [0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    relevant = np.array([[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], bool)
    recall = recall_at_k(scores, relevant, k=2)
    np.testing.assert_allclose(recall["recall_per_query"], [0.5, 0, np.nan])
    assert recall["recall"] == 0.25
    assert recall["recall_se"] == pytest.approx(0.25)
    ranks = mean_reciprocal_rank(scores, relevant)
    np.testing.assert_allclose(ranks["mean_reciprocal_rank_per_query"], [1, 0.25, np.nan])


def test_the_area_and_its_error() -> None:
    assert mislabel_auc([3.0, 2.0, 1.0, 0.0], [True, True, False, False])["auc"] == 1
    assert mislabel_auc([1.0, 1.0, 1.0, 1.0], [True, True, False, False])["auc"] == 0.5
    assert np.isnan(mislabel_auc([1.0, 0.0], [True, False])["auc_se"])
    generator = np.random.default_rng(0)
    wrong = np.arange(120) < 30
    results = [mislabel_auc(generator.normal(size=120) + wrong, wrong) for _ in range(300)]
    areas, errors = (np.array([float(result[name]) for result in results]) for name in ("auc", "auc_se"))
    true = 0.760250  # the normal distribution function at 1 / sqrt(2)
    assert abs(areas.mean() - true) < 4 * areas.std() / np.sqrt(300)
    assert 0.9 < errors.mean() / areas.std(ddof=1) < 1.1
    assert 0.9 < np.mean(abs(areas - true) < 1.96 * errors) < 0.99


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda s, losses, m: lds(s[:, :3], losses, m), "candidate"),
        (lambda s, losses, m: lds(s, losses[:3], m), "subset"),
        (lambda s, losses, m: lds(s, losses[:3], m[:3]), "subset"),
        (lambda s, losses, m: lds(s * np.nan, losses, m), "scores"),
        (lambda s, losses, m: lds(s, losses[:, 0], m), "losses"),
        (lambda s, losses, m: lds(xr.DataArray(s, dims=("a", "b")), losses, m), "scores"),
        (lambda s, losses, m: lds(s, losses, m, num_resamples=1), "num_resamples"),
        (lambda s, losses, m: recall_at_k(s, s > 0, k=0), "k"),
        (lambda s, losses, m: recall_at_k(s, s > 99, k=1), "relevant"),
        (lambda s, losses, m: mislabel_auc(s[0], s[0] > 99), "mislabelled"),
    ],
)
def test_bad_arguments_are_named(call: Any, named: str) -> None:
    with pytest.raises(InvalidInputError, match=named):
        call(*planted(0))
