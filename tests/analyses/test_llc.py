"""Local learning coefficients against their definition, DevInterp 2, and known values."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devinterp.analyses.common import convergence
from devinterp.analyses.common.mean_error import mean_error
from devinterp.analyses.common.uncertainty import confidence_interval
from devinterp.analyses.llc import compute_llc, devinterp_analyses, token_llc
from devinterp.analyses.llc.errors import widened
from devinterp.errors import BrokenChainsError, InvalidInputError, MissingDataError
from devinterp.testing import synthetic_tree
from support.reduced_trees import recorded_as
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
    with pytest.raises(InvalidInputError, match=r"`burnin` \(=41\) must be less than the number of steps \(41\)"):
        compute_llc(tree, burnin=41)
    with pytest.raises(InvalidInputError, match="a whole number, at least 0"):
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
    results = [compute_llc(synthetic_tree(num_draws=200, seed=seed)) for seed in range(40)]
    for name in ("observable_llc_mean", "paired_llc_mean", "llc_mean"):
        intervals = [confidence_interval(one, name) for one in results]
        held = np.mean([(one["lower"] <= truth) & (truth <= one["upper"]) for one in intervals])
        assert held > 0.85, name


def _by_hand(tree, minibatches):
    """Return the paired series, and the mean over all unmasked losses of a step at w0, from their definitions."""
    start = tree["trace/row_loss"].to_numpy().astype(float)[tree["trace/sequence_id"].to_numpy()]
    losses = tree["trace/loss"].to_numpy().astype(float)

    def descended(values):
        values = values.reshape(*values.shape[:-2], minibatches, -1)
        return np.nanmean(values, -1).mean(-1)

    return descended(losses) - descended(start), np.nanmean(start, (-2, -1))


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("minibatches", [1, 3])
@pytest.mark.parametrize("shared", [True, False])
def test_paired_llc_is_its_definition(shared, minibatches, ragged):
    tree = synthetic_tree(
        num_restrictions=2,
        num_burnin_steps=5,
        ragged=ragged,
        gradient_accumulation_steps=minibatches,
        shared_minibatches=shared,
    )
    result, (rise, _) = compute_llc(tree), _by_hand(tree, minibatches)
    np.testing.assert_allclose(result["paired_llc_per_chain"], 20 * rise[:, :, 5:].mean(-1), rtol=1e-9)
    np.testing.assert_allclose(result["paired_llc_mean"], 20 * rise[:, :, 5:].mean((1, 2)), rtol=1e-9)
    np.testing.assert_allclose(result["paired_ess"], convergence.ess(rise[:, :, 5:]), rtol=1e-6)
    np.testing.assert_allclose(result["paired_rhat"], convergence.rhat(rise[:, :, 5:]), rtol=1e-6)
    assert result["paired_llc_se"].attrs["degrees_of_freedom"] >= 7
    # Rows need not be in order: more draws bring more of them.
    order = np.random.default_rng(0).permutation(32)
    trace = tree["trace"].to_dataset(inherit=False).isel(row=order)
    xr.testing.assert_allclose(compute_llc(tree.assign({"trace": xr.DataTree(trace)})), result)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("minibatches", [1, 3])
def test_paired_llc_is_the_same_however_much_is_recorded(minibatches, ragged):
    tree = synthetic_tree(ragged=ragged, gradient_accumulation_steps=minibatches)
    everything = compute_llc(tree)
    sequences, moments = (compute_llc(recorded_as(tree, record)) for record in ("sequence", "moments"))
    for name in ("paired_llc_mean", "paired_llc_per_chain", "paired_llc_se", "llc_mean", "llc_se"):
        np.testing.assert_allclose(sequences[name], everything[name], rtol=1e-5)
        if minibatches == 1:
            np.testing.assert_allclose(moments[name], everything[name], rtol=1e-5)
    # Moments are of the mean over all unmasked losses of a step, of which the paired estimate is made then.
    pooled = np.nanmean(tree["trace/loss"].to_numpy().astype(float), (-2, -1))[0] - _by_hand(tree, minibatches)[1]
    np.testing.assert_allclose(moments["paired_llc_mean"], 20 * pooled.mean(), rtol=1e-6)


def test_losses_of_other_rows_are_not_guessed():
    tree = synthetic_tree()
    tree["trace/row_id"].values[3] = 1000
    assert np.isnan(compute_llc(tree)["paired_llc_mean"])
    tree = synthetic_tree()
    tree["trace/loss"][0, 1, 3, 2, 4] = np.nan
    result = compute_llc(tree)
    assert np.isnan(result["paired_llc_per_chain"]).to_numpy().tolist() == [False, True, False, False]
    assert np.isnan(result["paired_llc_se"])
    assert "paired_llc_mean" not in compute_llc(synthetic_tree(row_losses=False))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    options=st.fixed_dictionaries(
        {
            "num_chains": st.integers(1, 4),
            "num_draws": st.integers(10, 40),
            "num_rows": st.integers(6, 60),
            "num_burnin_steps": st.just(0),
            "batch_size": st.integers(1, 6),
            "gradient_accumulation_steps": st.integers(1, 3),
            "shared_minibatches": st.booleans(),
            "ragged": st.booleans(),
            "row_losses": st.booleans(),
            "seed": st.integers(0, 10_000),
        }
    ),
    record=st.sampled_from(["token", "sequence", "moments"]),
)
def test_weights_that_do_not_move_have_no_learning_coefficient(options, record):
    tree = recorded_as(synthetic_tree(scale=0.0, observables={"code": (3, 9)}, **options), record)
    result = compute_llc(tree)
    rounding = 20 * 1e-6
    if options["row_losses"]:
        assert abs(result["paired_llc_mean"]) <= rounding
        assert result["paired_llc_se"] <= rounding
    assert (abs(result["observable_llc_mean"]) <= rounding).all()
    if record == "token" or options["row_losses"]:
        assert abs(result["llc_mean"]) <= 6 * result["llc_se"] + rounding
    else:  # lengths of padded text are not known
        assert np.isnan(result["llc_se"]) or abs(result["llc_mean"]) <= 6 * result["llc_se"] + rounding


def test_the_error_without_losses_of_rows():
    tree = synthetic_tree(row_losses=False)
    result, error = compute_llc(tree), float(tree["trace/init_loss_mean_se"][0])
    trace = tree["trace/loss"].mean(["batch", "position"], dtype=float)[0]
    # Whole epochs of 8 minibatches and 2 steps of another, of 50 steps.
    share = (2 * 7**2 + 6 * 6**2) / 50**2 - 1 / 8
    monte_carlo = widened(mean_error(trace, shared=True, draw="step", data_share=share))
    np.testing.assert_allclose(result["llc_se"], 20 * np.hypot(monte_carlo, error), rtol=1e-6)
    assert "degrees_of_freedom" not in result["llc_se"].attrs
    # Chains with minibatches of their own have independent errors.
    config = json.loads(tree.attrs["config"]) | {"match_sampling_input_ids_across_chains": False}
    tree.attrs["config"] = json.dumps(config)
    own = widened(mean_error(trace, shared=False, draw="step"))
    np.testing.assert_allclose(compute_llc(tree)["llc_se"], 20 * np.hypot(own, error / 2), rtol=1e-6)
    del tree["trace"]["init_loss_mean_se"]
    result = compute_llc(tree)
    assert np.isnan(result["llc_se"])
    assert result["llc_se"].attrs["reason"] == "the error of L(w0) is not recorded in this run"


@pytest.mark.parametrize("rows", [True, False])
def test_one_mean_of_padded_text_on_one_side_and_another_on_the_other_is_part_of_the_error(rows):
    tree = synthetic_tree(ragged=True, batch_size=2, scale=0.0, row_losses=rows, num_draws=64)
    assert compute_llc(tree)["llc_se"] < 2
    means = np.nanmean(tree["trace/row_loss"] if rows else tree["trace/loss"][0, 0].stack(row=["step", "batch"]))
    tree["trace/init_loss_mean"] = xr.full_like(tree["trace/init_loss_mean"], means + 0.5)
    result = compute_llc(tree)
    if rows:  # L(w0) of the same minibatches is known
        assert result["llc_se"] > 9
        assert abs(result["llc_mean"]) < 2 * result["llc_se"]


def test_few_draws_have_an_error_from_the_spread_of_chains_alone():
    tree = synthetic_tree(num_draws=6)
    result = compute_llc(tree)
    for name in ("ess", "llc_mcse", "paired_ess"):
        assert np.isnan(result[name]), name
    assert np.isfinite([result["paired_llc_se"], result["llc_se"], *result["observable_llc_se"]]).all()
    assert result["paired_llc_se"].attrs == {"degrees_of_freedom": 3}
    own = compute_llc(synthetic_tree(num_draws=6, shared_minibatches=False))
    spread = own["paired_llc_per_chain"].std(ddof=1) / 2
    np.testing.assert_allclose(own["paired_llc_se"], spread)
    alone = compute_llc(synthetic_tree(num_draws=6, num_chains=1))
    assert np.isnan([alone["paired_llc_se"], alone["llc_se"], *alone["observable_llc_se"]]).all()
    assert alone["paired_llc_se"].attrs["reason"] == "1 chain(s) of 6 draws are too few for an error"
    assert np.isnan(confidence_interval(alone, "paired_llc_mean")["lower"])
    assert np.isfinite(compute_llc(synthetic_tree(num_draws=20, num_chains=1))["paired_llc_se"])


def test_noise_at_the_start_is_no_part_of_the_learning_coefficient():
    tree = synthetic_tree(num_restrictions=2)
    plain = compute_llc(tree)
    for name in ("init_loss", "init_loss_mean", "init_loss_se", "init_loss_mean_se"):
        tree["trace"][name.replace("init", "w0")] = tree["trace"][name]
        if not name.endswith("se"):
            tree["trace"][name] = xr.concat([tree["trace"][name] + 3, tree["trace"][name] + 4], "restriction")
    result = compute_llc(tree)
    for name in ("llc_mean", "llc_per_chain", "llc_se", "paired_llc_mean"):
        np.testing.assert_allclose(result[name], plain[name])
    np.testing.assert_allclose(result["init_loss"], float(plain["init_loss"]) + np.array([3, 4]))
    np.testing.assert_allclose(result["w0_loss"], plain["init_loss"])
    assert "w0_loss" not in plain


def test_another_noise_level_is_named():
    tree = synthetic_tree()
    assert compute_llc(tree).attrs["chains_share_minibatches"] is True
    assert "noise_level" not in compute_llc(tree).attrs
    tree.attrs["config"] = json.dumps(json.loads(tree.attrs["config"]) | {"noise_level": 0.5})
    for result in (compute_llc(tree), token_llc(tree, "code")):
        assert result.attrs["noise_level"] == 0.5
        assert "about 0.25 times" in result.attrs["caution"]


def test_initial_loss_may_differ_between_restrictions():
    tree = synthetic_tree(num_restrictions=2, row_losses=False)
    for name in ("init_loss", "init_loss_se", "init_loss_mean", "init_loss_mean_se"):
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
    with pytest.raises(
        InvalidInputError, match=r"`observable` is needed: pass one of the observables, \['code', 'train'\]"
    ):
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
    assert [analysis.name for analysis in devinterp_analyses()] == ["llc", "difference", "token_llc"]
