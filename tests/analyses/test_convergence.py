"""Vectorised diagnostics, against ArviZ's one series at a time."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from arviz_stats.base import array_stats
from scipy import stats

from devinterp.analyses.common import convergence, mean_error
from devinterp.analyses.common.uncertainty import confidence_interval


def _series(rng, num_chains, num_draws, kind):
    noise = rng.normal(size=(6, num_chains, num_draws))
    if kind == "independent":
        return noise
    if kind == "ties":
        return np.round(noise, 1)
    if kind == "apart":
        return noise + rng.normal(size=(6, num_chains, 1))
    rho = {"slow": 0.95, "alternating": -0.8}[kind]
    for t in range(1, num_draws):
        noise[..., t] = rho * noise[..., t - 1] + np.sqrt(1 - rho**2) * noise[..., t]
    return noise


@pytest.mark.parametrize("kind", ["independent", "ties", "apart", "slow", "alternating"])
@pytest.mark.parametrize("num_draws", [4, 5, 6, 7, 10, 11, 12, 13, 50, 333])
@pytest.mark.parametrize("num_chains", [2, 3, 8])
def test_equals_arviz(num_chains, num_draws, kind):
    series = _series(np.random.default_rng(num_draws), num_chains, num_draws, kind)
    axes = {"chain_axis": 0, "draw_axis": 1}
    expected = [
        [
            float(array_stats.rhat(one, **axes)),
            float(array_stats.ess(one, method="mean", **axes)),
            float(array_stats.mcse(one, method="mean", **axes)),
        ]
        for one in series
    ]
    computed = np.stack([convergence.rhat(series), convergence.ess(series), convergence.mcse(series)], -1)
    if num_draws < 10:  # Geyer's estimate is S log10(S) then, whatever the data
        np.testing.assert_allclose(computed[:, 0], np.array(expected)[:, 0], rtol=1e-10)
        assert np.isnan(computed[:, 1:]).all()
    else:
        np.testing.assert_allclose(computed, expected, rtol=1e-10)


def test_one_chain_is_split():
    series = _series(np.random.default_rng(0), 1, 100, "slow")
    expected = [float(array_stats.ess(one, chain_axis=0, draw_axis=1, method="mean")) for one in series]
    np.testing.assert_allclose(convergence.ess(series), expected, rtol=1e-10)
    # ArviZ gives no R-hat for one chain; the two halves of it are two.
    halves = np.concatenate([series[:, :, :50], series[:, :, 50:]], axis=1)
    np.testing.assert_allclose(convergence.rhat(series), [_rhat_of_ranks(one) for one in halves], rtol=1e-10)


def _rhat_of_ranks(halves):
    """R-hat of the normal scores of values ``(chain, draw)``, or of their distances from the median if that is larger."""
    folded = np.abs(halves - np.median(halves))
    scores = [stats.norm.ppf((stats.rankdata(x) - 3 / 8) / (x.size + 1 / 4)) for x in (halves, folded)]
    axes = {"chain_axis": 0, "draw_axis": 1}
    return max(float(array_stats.rhat(each.reshape(halves.shape), method="identity", **axes)) for each in scores)


def test_nan_and_constant_series():
    series = np.random.default_rng(0).normal(size=(3, 2, 20))
    series[0, 1, 3] = np.nan
    series[1] = 2.5
    assert np.isnan(convergence.ess(series)[0])
    assert np.isnan(convergence.rhat(series)[:2]).all()
    assert convergence.ess(series)[1] == 40
    assert convergence.mcse(series)[1] == 0
    assert np.isfinite(convergence.rhat(series)[2])
    assert np.isnan(convergence.ess(series[..., :3])).all()


def test_chains_that_stay_apart():
    stuck = np.array([1.0, 2.0])[:, None] * np.ones((2, 20))
    assert convergence.rhat(stuck) == np.inf
    assert np.isnan(convergence.rhat(np.ones((2, 20))))
    # Of two values only, the distances from the median do not vary; the ranks still say how chains differ.
    assert np.isfinite(convergence.rhat(np.tile([0.0, 1.0], (2, 10))))


@pytest.mark.parametrize("num_chains", [1, 2, 3, 4, 8, 16])
@pytest.mark.parametrize("num_draws", [4, 9, 10, 20, 100, 500])
def test_contrasts_are_enough_for_an_interval_and_no_more(num_chains, num_draws):
    for shared in (True, False):
        plan = mean_error.contrasts(num_chains, num_draws, shared)
        if num_draws < 10:
            assert plan.degrees_of_freedom == num_chains - 1
        else:
            assert plan.degrees_of_freedom >= (7 if num_chains > 2 or num_draws == 500 else 3)
            assert plan.num_waves == 0 or plan.degrees_of_freedom - num_chains < 7
        assert plan.widening >= 1


def test_the_error_of_many_independent_chains_is_their_spread():
    series = np.random.default_rng(3).normal(size=(5, 16, 30))
    spread = series.mean(-1).std(-1, ddof=1) / 4
    np.testing.assert_allclose(np.sqrt(mean_error.mean_variance(series, shared=False)), spread)
    # What is the same in all chains is no less uncertain for there being many.
    common = 3 * np.random.default_rng(4).normal(size=(5, 1, 30))
    variance = mean_error.mean_variance(series + common, shared=True, data_share=1 / 30)
    assert (variance > 0.3 * 9 / 30).all()
    # A mean over whole epochs has no noise of the data.
    assert (mean_error.mean_variance(series + common, shared=True, data_share=0.0) < 0.3 * 9 / 30).any()


def test_the_error_is_lazy_and_does_not_depend_on_chunks():
    values = np.random.default_rng(1).normal(size=(4, 30, 5, 7)).astype(np.float32)
    series = xr.DataArray(values, dims=("chain", "draw", "sequence", "position"))
    for shared in (True, False):
        expected = mean_error.mean_error(series, shared=shared)
        lazy = mean_error.mean_error(series.chunk({"chain": 1, "draw": 7, "sequence": 2}), shared=shared)
        assert lazy.chunks is not None
        xr.testing.assert_allclose(lazy.compute(), expected, rtol=1e-12)
        assert lazy.attrs == expected.attrs == {"degrees_of_freedom": 9 if shared else 7}


def test_intervals_without_a_degree_of_freedom():
    result = xr.Dataset({"value": 1.0, "value_se": ((), 2.0, {"degrees_of_freedom": 0})})
    assert np.isnan(confidence_interval(result, "value")["lower"])
    mean = xr.Dataset({"value_mean": 1.0, "value_se": 2.0})
    np.testing.assert_allclose(confidence_interval(mean, "value_mean")["upper"], 1 + 1.959964 * 2, rtol=1e-6)


def test_summary_is_lazy_and_does_not_depend_on_chunks():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(4, 30, 5, 7)).astype(np.float32)
    series = xr.DataArray(values, dims=("chain", "draw", "sequence", "position"))
    expected = convergence.summary(series)
    lazy = convergence.summary(series.chunk({"chain": 1, "draw": 7, "sequence": 2, "position": 3}))
    assert all(variable.chunks is not None for variable in lazy.data_vars.values())
    xr.testing.assert_allclose(lazy.compute(), expected, rtol=1e-12)
    np.testing.assert_allclose(expected["ess"][2, 3], convergence.ess(values[:, :, 2, 3].astype(float)))


def test_many_series_in_blocks():
    series = np.random.default_rng(2).normal(size=(2000, 4, 50))
    found = convergence.summaries(series)
    np.testing.assert_allclose(
        found[-1], [convergence.rhat(series[-1]), convergence.ess(series[-1]), convergence.mcse(series[-1])]
    )
    assert found.shape == (2000, 3)
