"""All coefficients of a result side by side, and the losses that they are means of."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

from devinterp.analyses.common.uncertainty import confidence_interval, student_quantile
from devinterp.analyses.llc import compute_llc, estimates, loss_traces
from devinterp.testing import synthetic_tree


@pytest.mark.parametrize("num_restrictions", [1, 2])
def test_they_are_those_of_the_result(num_restrictions):
    result = compute_llc(synthetic_tree(num_restrictions=num_restrictions, num_burnin_steps=5))
    assert next(iter(result.data_vars)) == "paired_llc_mean"  # shown first
    table = estimates(result)
    assert table["estimate"].values.tolist() == ["paired", "minibatches", "code", "train"]
    assert table["variable"].values.tolist() == ["paired_llc_mean", "llc_mean", *2 * ["observable_llc_mean"]]
    for label, prefix in (
        ("paired", "paired_"),
        ("minibatches", ""),
        ("code", "observable_"),
        ("train", "observable_"),
    ):
        one = result.sel(observable=label) if prefix == "observable_" else result
        row = table.sel(estimate=label)
        for name in ("mean", "se", "per_chain"):
            np.testing.assert_array_equal(row[name], one[f"{prefix}llc_{name}"])
        for name in ("rhat", "ess"):
            np.testing.assert_array_equal(row[name], one[f"{prefix}{name}"])
        interval = confidence_interval(one, f"{prefix}llc_mean")
        for name in ("lower", "upper"):
            np.testing.assert_array_equal(row[name], interval[name])


def test_without_losses_at_w0_there_is_no_paired_one():
    table = estimates(compute_llc(synthetic_tree(row_losses=False, observables={})))
    assert table["estimate"].values.tolist() == ["minibatches"]


def test_the_reason_of_a_missing_error():
    table = estimates(compute_llc(synthetic_tree(num_chains=1, num_draws=3)))
    assert table["se"].isnull().all()
    assert table["reason"].values.tolist() == 4 * ["1 chain(s) of 3 draws are too few for an error"]
    assert set(estimates(compute_llc(synthetic_tree()))["reason"].values) == {""}
    means = synthetic_tree(
        row_losses=False
    )  # of unpadded text: its error is a number, though that of padded text would not be
    means.attrs["config"] = json.dumps({**json.loads(means.attrs["config"]), "record": "sequence"})
    means["trace"] = xr.DataTree(means["trace"].to_dataset().assign(loss=means["trace/loss"].mean("position")))
    result = compute_llc(means)
    assert result["llc_se"].attrs["reason"]
    assert estimates(result)["reason"].sel(estimate="minibatches") == ""


def test_lazy_results_stay_lazy():
    lazy = estimates(compute_llc(synthetic_tree(chunks={"chain": 1, "step": 10, "draw": 10})))
    assert lazy["mean"].chunks is not None
    xr.testing.assert_allclose(lazy.compute(), estimates(compute_llc(synthetic_tree())))


def test_runs_of_different_size_keep_their_degrees_of_freedom():
    """Joined, their errors have no common attribute; intervals with the normal quantile would be too narrow."""
    runs = {"few": synthetic_tree(num_chains=2, num_draws=8), "many": synthetic_tree(num_chains=4, num_draws=60)}
    for name, run in runs.items():
        run.attrs["config"] = json.dumps({**json.loads(run.attrs["config"]), "name": name})
    joined = xr.DataTree.from_dict(runs).slt.llc()
    degrees = joined["paired_llc_dof"].values.tolist()
    assert degrees == [compute_llc(run)["paired_llc_se"].attrs["degrees_of_freedom"] for run in runs.values()]
    assert degrees[0] < degrees[1]
    table = estimates(joined)
    for number, (degree, run) in enumerate(zip(degrees, runs.values(), strict=True)):
        error = float(compute_llc(run)["paired_llc_se"])
        row = table.sel(estimate="paired").isel({joined["paired_llc_mean"].dims[0]: number})
        np.testing.assert_allclose(row["upper"] - row["mean"], student_quantile(0.975, degree) * error, rtol=1e-3)


@pytest.mark.parametrize("options", [{}, {"ragged": True}, {"gradient_accumulation_steps": 3}], ids=str)
def test_coefficients_are_means_of_the_traces(options):
    tree = synthetic_tree(num_burnin_steps=7, num_restrictions=2, **options)
    traces, result = loss_traces(tree), compute_llc(tree)
    kept = traces.isel(step=slice(7, None)).mean(["chain", "step"])
    np.testing.assert_allclose(20 * kept["rise"], result["paired_llc_mean"], rtol=1e-12)
    np.testing.assert_allclose(20 * (kept["loss"] - kept["w0_loss"]), result["llc_mean"], rtol=1e-9)
    np.testing.assert_array_equal(traces["loss"], result["loss_trace"])


def test_traces_of_broken_chains_end():
    traces = loss_traces(synthetic_tree(num_draws=20, diverged=[(0, 1)]))
    for name in ("loss", "rise"):
        assert traces[name].isel(chain=1, step=slice(10, None)).isnull().all()
        assert traces[name].drop_isel(chain=1).notnull().all()
