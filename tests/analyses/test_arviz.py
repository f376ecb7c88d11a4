"""A run as ArviZ takes it: ArviZ computes with it, and the numbers are those of our own analyses."""

from __future__ import annotations

from typing import Any

import arviz_stats
import numpy as np
import pytest
import xarray as xr

from devinterp.analyses.arviz import to_arviz
from devinterp.analyses.llc import compute_llc
from devinterp.errors import BrokenChainsError
from devinterp.testing import synthetic_tree
from support.small_models import ids, run


def test_the_summary_of_arviz_is_ours() -> None:
    tree = synthetic_tree(num_draws=60, num_burnin_steps=20)
    summary = arviz_stats.summary(to_arviz(tree), round_to="none")
    llc = compute_llc(tree)
    np.testing.assert_allclose(summary.loc["llc", "mean"], llc["paired_llc_mean"], rtol=1e-6)
    np.testing.assert_allclose(summary.loc["llc", "r_hat"], llc["paired_rhat"], rtol=1e-6)
    np.testing.assert_allclose(
        summary.loc["observable_llc[code]", "mean"], llc["observable_llc_mean"].sel(observable="code")
    )
    np.testing.assert_allclose(
        summary.loc["observable_llc[code]", "mcse_mean"], llc["observable_llc_mcse"].sel(observable="code"), rtol=1e-6
    )


def test_what_is_in_which_group() -> None:
    options: dict[str, Any] = {
        "num_draws": 6,
        "num_burnin_steps": 3,
        "num_steps_bw_draws": 2,
        "save_metrics": ["distance"],
    }
    tree = run(observables={"watched": ids()}, paired=True, **options)
    result = to_arviz(tree)
    assert set(result.children) == {"posterior", "warmup_posterior", "sample_stats", "constant_data"}
    steps = tree["draw_step"].to_numpy()
    loss = tree["trace/loss"].mean(["batch", "position"])[0]
    np.testing.assert_allclose(result["posterior/loss"], loss.isel(step=steps), rtol=1e-6)
    np.testing.assert_allclose(result["warmup_posterior/loss"], loss.isel(step=slice(3)), rtol=1e-6)
    stats = result["sample_stats"]
    assert stats["draw_step"].to_numpy().tolist() == steps.tolist()
    assert not stats["diverging"].any()
    np.testing.assert_allclose(stats["distance"], tree["metrics/distance"][0].isel(step=steps))
    np.testing.assert_allclose(stats["virial"], tree["metrics/virial"][0])
    density = -20.0 * result["posterior/loss"] - 2.5 * tree["metrics/virial_square"][0]
    np.testing.assert_allclose(stats["lp"], density, rtol=1e-6)
    assert result.attrs["lr"] == 1e-3
    for node in result.children.values():
        assert all(each.dims[:2] == ("chain", "draw") for each in node.data_vars.values() if each.ndim > 1)


def test_restrictions_burnin_and_broken_chains() -> None:
    tree = synthetic_tree(num_restrictions=2, num_draws=20, observables={}, row_losses=False)
    result = to_arviz(tree, burnin=5)
    assert dict(result["posterior/llc"].sizes) == {"chain": 4, "draw": 15, "restriction": 2}
    np.testing.assert_allclose(result["posterior/llc"].mean(["chain", "draw"]), compute_llc(tree, burnin=5)["llc_mean"])
    broken = synthetic_tree(num_draws=20, diverged=[(0, 1)])
    with pytest.raises(BrokenChainsError):
        to_arviz(broken)
    assert to_arviz(broken, chains="finished").sizes == {}
    assert to_arviz(broken, chains="finished")["posterior"].sizes["chain"] == 3


def test_a_lazy_tree_stays_lazy() -> None:
    lazy = to_arviz(synthetic_tree(num_draws=20, chunks={"draw": 5, "step": 5}))
    assert lazy["posterior/llc"].chunks is not None
    whole = to_arviz(synthetic_tree(num_draws=20))
    xr.testing.assert_allclose(lazy["posterior"].to_dataset().compute(), whole["posterior"].to_dataset())
