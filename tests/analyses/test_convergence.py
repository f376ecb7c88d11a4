"""Vectorised diagnostics, against ArviZ's one series at a time."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from arviz_stats.base import array_stats
from scipy import stats

from devinterp.analyses.common import convergence


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
    found = convergence._summary(series)
    np.testing.assert_allclose(
        found[-1], [convergence.rhat(series[-1]), convergence.ess(series[-1]), convergence.mcse(series[-1])]
    )
    assert found.shape == (2000, 3)
