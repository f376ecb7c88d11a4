"""Local learning coefficients against their definition, DevInterp 2, and known values."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

from devinterp.analyses.llc import compute_llc, devinterp_analyses, token_llc
from devinterp.errors import BrokenChainsError, InvalidInputError, MissingDataError
from devinterp.testing import synthetic_tree
from support.v2_results import CASES, recorded_tree, results


@pytest.mark.parametrize("case", CASES["cases"])
def test_equals_v2_with_burnin_kept(case):
    found = compute_llc(recorded_tree(case), burnin=0)
    for name in ("llc_mean", "llc_std", "llc_per_chain", "loss_trace", "init_loss"):
        expected = results()[f"{case}/llc/{name}"]
        # v2 subtracts two losses of about 3 nats in float32 and multiplies by n_beta: that is what its own rounding costs.
        rounding = 20 * np.spacing(np.float32(3.2)) if name.startswith("llc") else 0
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=rounding)


def test_burnin_is_left_out_by_default_and_can_be_chosen():
    tree = recorded_tree("sgld_burnin_spacing")
    trace = results()["sgld_burnin_spacing/llc/loss_trace"].astype(float)
    init_loss = float(results()["sgld_burnin_spacing/llc/init_loss"])
    found = compute_llc(tree)
    assert found.attrs["burnin"] == 5
    np.testing.assert_allclose(found.llc_per_chain, 20 * (trace[:, 5:].mean(1) - init_loss), rtol=1e-5)
    np.testing.assert_allclose(
        compute_llc(tree, burnin=9).llc_per_chain, 20 * (trace[:, 9:].mean(1) - init_loss), rtol=1e-5
    )
    assert found.sizes["step"] == 41
    with pytest.raises(
        InvalidInputError, match=r"`burnin` \(=41\) must be at least 0 and less than the number of steps \(41\)"
    ):
        compute_llc(tree, burnin=41)
    with pytest.raises(InvalidInputError, match="must be at least 0"):
        compute_llc(tree, burnin=-1)


@pytest.mark.parametrize("ragged", [False, True])
def test_paired_llc_is_the_mean_of_the_tokens(ragged):
    tree = synthetic_tree(num_restrictions=2, num_burnin_steps=10, num_draws=40, ragged=ragged)
    found, tokens = compute_llc(tree), token_llc(tree, "code")
    np.testing.assert_allclose(
        found["observable_llc_mean"].sel(observable="code"), tokens["llc"].mean(("sequence", "position")), rtol=1e-6
    )
    assert tokens["llc"].dims == ("restriction", "sequence", "position")
    assert bool(tokens["llc"].isnull().any()) == ragged
    assert tokens["position"].to_numpy().tolist() == list(range(1, 9))
    assert tokens["token_ids"].shape == (6, 9)


def test_the_known_value_lies_within_the_error():
    # synthetic_tree: E[loss] - init_loss = 2 E|w|^2 = 2 * 6 * 0.1^2, the linear parts average to zero.
    truth = 20 * 2 * 6 * 0.01
    found = [compute_llc(synthetic_tree(num_draws=200, seed=seed)) for seed in range(40)]
    z = np.array(
        [(float(one["observable_llc_mean"][0]) - truth) / float(one["observable_llc_mcse"][0]) for one in found]
    )
    assert np.abs(z.mean()) < 3 / np.sqrt(len(z))
    assert (np.abs(z) < 1.96).mean() > 0.8


def test_error_of_the_initial_loss_enters_multiplied_by_n_beta():
    tree = synthetic_tree()
    found = compute_llc(tree)
    error = float(tree["trace/init_loss_mean_se"][0])
    np.testing.assert_allclose(found.llc_se, np.hypot(found.llc_mcse, 20 * error))
    # Chains with minibatches of their own have independent errors.
    config = json.loads(tree.attrs["config"]) | {"match_sampling_input_ids_across_chains": False}
    tree.attrs["config"] = json.dumps(config)
    np.testing.assert_allclose(compute_llc(tree).llc_se, np.hypot(found.llc_mcse, 20 * error / 2))
    del tree["trace"]["init_loss_mean_se"]
    assert np.isnan(compute_llc(tree).llc_se)


def test_initial_loss_may_differ_between_restrictions():
    tree = synthetic_tree(num_restrictions=2)
    for name in ("init_loss", "init_loss_se", "init_loss_mean_se"):
        values = tree["trace"][name]
        tree["trace"][name] = xr.concat([values, values + 1], "restriction")
    shifted, plain = compute_llc(tree), compute_llc(synthetic_tree(num_restrictions=2))
    np.testing.assert_allclose(plain["llc_mean"] - shifted["llc_mean"], [0, 20], atol=1e-5)
    assert shifted["llc_se"].dims == ("restriction",)


def test_broken_chains_are_refused_by_name_or_left_out_in_all_restrictions():
    tree = synthetic_tree(num_restrictions=2, diverged=[(1, 2)])
    with pytest.raises(
        BrokenChainsError, match=r"restriction 'part1' chain 2: diverged \(loss became nan at step 25\)"
    ) as error:
        compute_llc(tree)
    assert "chains='finished' to use chains [0, 1, 3]" in str(error.value)
    found = compute_llc(tree, chains="finished")
    assert found.attrs["chains_used"] == [0, 1, 3]
    assert found.attrs["chains_left_out"] == [2]
    assert found["chain"].to_numpy().tolist() == [0, 1, 3]
    assert np.isfinite(found["llc_mean"]).all()
    with pytest.raises(BrokenChainsError, match="No chain finished"):
        compute_llc(synthetic_tree(num_chains=1, diverged=[(0, 0)]), chains="finished")
    with pytest.raises(BrokenChainsError, match=r"`token_llc` needs finished chains.*'part1' chain 2: diverged"):
        token_llc(tree, "code")


def test_one_lost_loss_gives_nan_not_the_mean_of_the_rest():
    tree = synthetic_tree()
    tree["observables/code/loss"][0, 1, 3, 2, 4] = np.nan
    found = compute_llc(tree)["observable_llc_per_chain"].sel(observable="code")
    assert np.isnan(found[1])
    assert np.isfinite(found[0])


def test_what_is_asked_for_must_exist():
    tree = synthetic_tree()
    with pytest.raises(InvalidInputError, match=r"the observable has to be one of \['code', 'train'\]"):
        token_llc(tree)
    with pytest.raises(InvalidInputError, match=r"\(='web'\)"):
        token_llc(tree, "web")
    with pytest.raises(MissingDataError, match="sample with `observables=`"):
        token_llc(synthetic_tree(observables={}))
    assert token_llc(synthetic_tree(observables={"one": (3, 4)})).attrs["observable"] == "one"
    assert "observable_llc_mean" not in compute_llc(synthetic_tree(observables={}))
    with pytest.raises(InvalidInputError, match=r"needs one sampling run; .* there are 2: 'a', 'b'"):
        compute_llc(xr.DataTree.from_dict({"/a": tree, "/b": tree}))
    tree.attrs["config"] = "{}"
    with pytest.raises(MissingDataError, match="n_beta"):
        compute_llc(tree)


def test_models_with_one_loss_per_sample():
    tree = synthetic_tree(observables={"train": (5, 2)}, num_tokens=2)
    flat = xr.DataTree.from_dict(
        {
            path: node.to_dataset(inherit=False).isel(position=0, drop=True, missing_dims="ignore")
            for path, node in tree.subtree_with_keys
        }
    )
    xr.testing.assert_allclose(compute_llc(flat), compute_llc(tree))


@pytest.mark.parametrize("chunks", [{}, {"chain": 1, "draw": 7, "step": 9, "sequence": 2, "position": 3, "batch": 1}])
def test_lazy_and_independent_of_chunks(chunks):
    make = lambda chunks: synthetic_tree(num_restrictions=3, num_burnin_steps=4, ragged=True, chunks=chunks)  # noqa: E731
    for compute in (compute_llc, lambda tree: token_llc(tree, "train")):
        lazy = compute(make(chunks))
        assert all(lazy[name].chunks is not None for name in lazy.data_vars)
        xr.testing.assert_allclose(lazy.compute(), compute(make(None)), rtol=1e-9)


def test_registered():
    assert [analysis.name for analysis in devinterp_analyses()] == ["llc", "token_llc"]
