"""The mean susceptibility of an observable is the mean of its tokens' susceptibilities, and its error is its own."""

from __future__ import annotations

import numpy as np
import pytest

from devinterp import errors
from devinterp.analyses.susceptibilities import compute_susceptibilities
from devinterp.analyses.susceptibilities.averaged import mean_susceptibilities
from devinterp.testing import synthetic_tree
from support.reduced_trees import recorded_as

OBSERVABLES = {"train": (4, 8), "code": (3, 7)}


def token_means(tree, **options):
    labelled = compute_susceptibilities(tree, "train", include_sampling_task=True, **options)["labelled"]
    return labelled["susceptibility"].mean(["sequence", "position"])


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("estimator", ["two_run", "single_run"])
def test_it_is_the_mean_over_tokens_with_the_jackknife_error_of_the_mean(ragged, estimator):
    tree = synthetic_tree(num_restrictions=3, num_chains=3, num_draws=20, observables=OBSERVABLES, ragged=ragged)
    result = mean_susceptibilities(tree, "train", include_sampling_task=True, estimator=estimator)
    expected = token_means(tree, estimator=estimator)
    np.testing.assert_allclose(result["susceptibility"], expected, rtol=1e-6, atol=1e-9)
    others = [[c for c in range(3) if c != n] for n in range(3)]
    without = np.array([token_means(tree.isel(chain=chains), estimator=estimator) for chains in others])
    jackknife = np.sqrt(2 / 3 * ((without - without.mean(0)) ** 2).sum(0))
    np.testing.assert_allclose(result["susceptibility_se"], jackknife, rtol=1e-5, atol=1e-9)
    lazy = mean_susceptibilities(tree.chunk({"draw": 6}), "train", include_sampling_task=True, estimator=estimator)
    assert lazy["susceptibility"].chunks is not None
    np.testing.assert_allclose(lazy["susceptibility"].compute(), result["susceptibility"], rtol=1e-6, atol=1e-9)


def test_moments_are_refused():
    tree = recorded_as(synthetic_tree(num_restrictions=2, num_draws=8, observables=OBSERVABLES), "moments")
    with pytest.raises(errors.MissingDataError, match="mean_susceptibilities"):
        mean_susceptibilities(tree, "train")
