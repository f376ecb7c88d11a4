"""Differences between the runs of a study: the difference of their coefficients, with an error that pairing makes smaller."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import xarray as xr

from devinterp.analyses.common.uncertainty import confidence_interval
from devinterp.analyses.llc.difference import difference
from devinterp.errors import BrokenChainsError, InvalidInputError
from devinterp.study_labels import is_logarithmic
from devinterp.testing import synthetic_tree

N_BETA, CHAINS, DRAWS = 20.0, 4, 60
LEVELS = {0: 0.1, 10: 0.15, 100: 0.15}


def synthetic_study(seed: int, *, common: float = 1.0, seeds: tuple[int, ...] = (1,), **changes: Any) -> xr.DataTree:
    """Return runs whose losses rise by known means, with noise that they have in common and noise of their own."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(1, CHAINS, DRAWS, 1, 1))
    root = xr.DataTree()
    for number in seeds:
        for checkpoint, level in LEVELS.items():
            run = synthetic_tree(
                num_chains=CHAINS, num_draws=DRAWS, row_losses=False, shared_minibatches=False, num_rows=8, **changes
            )
            noise = common * shared + 0.1 * rng.normal(size=shared.shape)
            start = float(np.asarray(run["trace/init_loss_mean"]).mean())
            loss = run["trace/loss"]
            values = np.broadcast_to(start + level + 0.1 * noise, loss.shape).copy()
            trace = run["trace"].to_dataset(inherit=False)
            known = 0 * trace["init_loss_mean_se"]  # as if L(w0) had no error
            run["trace"].dataset = trace.assign(loss=loss.copy(data=values), init_loss_mean_se=known)
            provenance = json.loads(run.attrs["provenance"])
            labels = {"checkpoint": checkpoint, "seed": number}
            dims = {"checkpoint": ["checkpoint"], "seed": ["seed"]}
            run.attrs["provenance"] = json.dumps({**provenance, "notes": {"study": {"labels": labels, "dims": dims}}})
            root[f"checkpoint={checkpoint},seed={number}"] = run
    return root


def test_it_is_the_difference_of_the_coefficients() -> None:
    tree = synthetic_study(0, seeds=(1, 2))
    llc, change = tree.slt.llc()["llc_mean"], tree.slt.difference(along="checkpoint")
    assert change["llc_difference"].dims == ("checkpoint", "seed")
    assert change["checkpoint"].values.tolist() == [10, 100]
    np.testing.assert_allclose(change["llc_difference"], llc.diff("checkpoint"), rtol=1e-5, atol=1e-6)
    assert change["compared_with"].values.tolist() == [[0, 0], [10, 10]]
    first = tree.slt.difference(along="checkpoint", reference="first")
    expected = llc.isel(checkpoint=slice(1, None)) - llc.isel(checkpoint=0, drop=True)
    np.testing.assert_allclose(first["llc_difference"], expected, rtol=1e-5, atol=1e-6)
    other = tree.slt.difference(along="seed")["llc_difference"]
    np.testing.assert_allclose(other, llc.diff("seed").transpose(*other.dims), rtol=1e-5, atol=1e-6)


def test_what_runs_have_in_common_cancels() -> None:
    paired = synthetic_study(1).slt.difference(along="checkpoint")
    assert (paired["llc_difference_se"] < 0.4 * paired["separate_se"]).all()
    apart = synthetic_study(1, common=0.0).slt.difference(along="checkpoint")
    assert (apart["llc_difference_se"] > 0.4 * apart["separate_se"]).all()


@pytest.mark.heavy
def test_its_intervals_hold() -> None:
    """The 95 % interval holds the true difference as often as it should, to 3 standard errors."""
    inside = []
    for seed in range(60):
        change = difference(synthetic_study(seed), along="checkpoint")
        interval = confidence_interval(change, "llc_difference")
        truth = N_BETA * np.diff(list(LEVELS.values()))
        lower, upper = interval["lower"].values.ravel(), interval["upper"].values.ravel()
        inside += ((lower <= truth) & (truth <= upper)).tolist()
    # Two differences of one study share a run: their hits are not independent, which doubles the variance at most.
    assert abs(np.mean(inside) - 0.95) < 3 * np.sqrt(2 * 0.95 * 0.05 / len(inside))


def test_what_it_needs() -> None:
    tree = synthetic_study(2, seeds=(1, 2))
    with pytest.raises(
        InvalidInputError, match=r"`along` \(=None\) must be one of the study's dimensions: checkpoint, seed"
    ):
        tree.slt.difference()
    with pytest.raises(InvalidInputError, match="'previous' or 'first'"):
        tree.slt.difference(along="seed", reference="last")
    with pytest.raises(InvalidInputError, match="this tree is none"):
        synthetic_tree().slt.difference()
    with pytest.raises(InvalidInputError, match="needs two runs along 'seed'"):
        synthetic_study(2).slt.difference(along="seed")
    broken = tree["checkpoint=10,seed=1"]
    state = xr.full_like(broken["status/state"].astype(object), "diverged")
    broken["status"].dataset = broken["status"].to_dataset(inherit=False).assign(state=state)
    with pytest.raises(BrokenChainsError, match="run 'checkpoint=10,seed=1'"):
        tree.slt.difference(along="checkpoint")
    change = tree.slt.difference(along="checkpoint", chains="finished")
    assert change["llc_difference"].isnull().sel(seed=1).values.tolist() == [True, False]
    assert change["compared_with"].sel(seed=1, checkpoint=100) == 0  # the one before it is left out


def test_restrictions_are_compared_by_name() -> None:
    change = synthetic_study(3, num_restrictions=2).slt.difference(along="checkpoint")
    assert change["llc_difference"].dims == ("checkpoint", "seed", "restriction")


def test_logarithmic_labels() -> None:
    assert is_logarithmic([0, 1, 2, 4, 8, 512])
    assert is_logarithmic([1, 10, 100])
    assert not is_logarithmic([0, 1, 2, 3, 4])
    assert not is_logarithmic([-1, 1, 10, 100])
    assert not is_logarithmic([1, 100])
