"""Susceptibilities against their definition and DevInterp 2, their errors, and one pass over the store."""

from __future__ import annotations

import json

import dask
import numpy as np
import pytest
import xarray as xr

from devinterp.analyses.common.convergence import mcse
from devinterp.analyses.susceptibilities import compute_susceptibilities
from devinterp.errors import BrokenChainsError, InvalidInputError, MissingDataError
from devinterp.testing import synthetic_tree
from support.counted_reads import counted
from support.small_models import same_numbers
from support.v2_results import joined, results


def _observables():
    return {"train": (8, 9), "code": (6, 9), "web": (3, 6)}


def _plain(tree, name, restriction, estimator="two_run", path="observables/train/init_loss"):
    """The definition, in float64, with L0 from one of the losses at the starting weights."""
    task = tree["observables/train/loss"].to_numpy().astype(float)
    tokens = tree[f"observables/{name}/loss"].to_numpy().astype(float)
    mean = np.nanmean(task, axis=(3, 4))
    initial = np.nanmean(tree[path].to_numpy().astype(float))
    phi, loss = mean[restriction] - initial, tokens[restriction]
    reference = 0 if estimator == "two_run" else restriction
    gap = mean[reference].mean() - tokens[reference].mean((0, 1))
    return (phi * mean[restriction]).mean() - (phi[..., None, None] * loss).mean((0, 1)) - phi.mean() * gap


@pytest.mark.parametrize("lazy", [False, True])
def test_equals_v2(lazy):
    tree = joined(full="sgld_localized", restricted="sgld_masked")
    result = compute_susceptibilities(
        tree.chunk({"draw": 5, "sequence": 5}) if lazy else tree, "train", initial_loss="trace"
    )
    table = result["susceptibilities"]
    assert table["wr"].to_numpy().tolist() == ["full", "restricted"]
    expected = results()["susceptibilities/sus"][:, 0]
    np.testing.assert_allclose(
        table["sus"].sel(wr="restricted"), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
    )
    assert table.attrs["dataset_id_to_name"] == ["code"]
    ids = results()["sgld_localized/input_ids_code"]
    np.testing.assert_array_equal(result["context/input_ids"], ids.reshape(-1))


@pytest.mark.parametrize("estimator", ["two_run", "single_run"])
@pytest.mark.parametrize("ragged", [False, True])
def test_is_its_definition(ragged, estimator):
    tree = synthetic_tree(num_restrictions=3, observables=_observables(), ragged=ragged)
    result = compute_susceptibilities(tree, "train", estimator=estimator, include_sampling_task=True)["labelled"]
    for n, restriction in enumerate(["full", "part1", "part2"]):
        for name, (num_sequences, num_tokens) in _observables().items():
            chi = result["susceptibility"].sel(restriction=restriction, observable=name)
            inside = chi.isel(sequence=slice(num_sequences), position=slice(num_tokens - 1))
            np.testing.assert_allclose(inside, _plain(tree, name, n, estimator), rtol=1e-5, atol=1e-8)
            assert np.isnan(chi.isel(sequence=slice(num_sequences, None))).all()


def test_is_minus_the_covariance_when_the_runs_coincide():
    tree = synthetic_tree(num_restrictions=2, observables=_observables())
    result = compute_susceptibilities(tree, "train")["labelled"]["susceptibility"].sel(
        restriction="full", observable="code"
    )
    mean = tree["observables/train/loss"].to_numpy().astype(float)[0].mean((2, 3))
    tokens = tree["observables/code/loss"].to_numpy().astype(float)[0]
    gap = tokens - mean[..., None, None]
    covariance = ((mean - mean.mean())[..., None, None] * gap).mean((0, 1))
    np.testing.assert_allclose(result, -covariance, rtol=1e-6, atol=1e-10)


def test_labels_and_tables_agree():
    tree = synthetic_tree(num_restrictions=2, observables=_observables())
    result = compute_susceptibilities(tree, "train")
    table, labelled = result["susceptibilities"].to_dataset(), result["labelled"].to_dataset()
    assert table["sus"].dims == ("sus_flat", "wr")
    assert table.sizes["sus_flat"] == 6 * 8 + 3 * 5
    assert table.attrs["dataset_id_to_name"] == ["code", "web"]
    for row in (0, 13, 47, 48, 62):
        one = table.isel(sus_flat=row)
        name = table.attrs["dataset_id_to_name"][int(one["dataset_id"])]
        place = {"observable": name, "sequence": int(one["batch"]), "position": int(one["target_position"])}
        np.testing.assert_array_equal(one["sus"], labelled["susceptibility"].sel(place))
        np.testing.assert_array_equal(one["sus_se"], labelled["susceptibility_se"].sel(place))
    context = result["context"].to_dataset()
    last = context.isel(ctx_flat=-1)
    assert (int(last["dataset_id"]), int(last["batch"]), int(last["position"])) == (1, 2, 5)
    assert int(last["input_ids"]) == int(tree["observables/web/token_ids"][2, 5])
    assert labelled["token_ids"].dims == ("observable", "sequence", "token")
    assert (labelled["token_ids"].sel(observable="web")[3:] == -1).all()
    assert set(
        compute_susceptibilities(tree, "train", include_sampling_task=True)["labelled"]["observable"].to_numpy()
    ) == set(_observables())


def test_initial_loss_is_paired_where_it_can_be():
    tree = synthetic_tree(num_restrictions=2, observables=_observables())
    chosen = {"observable": "code", "restriction": "part1"}
    for option, used, path in (
        ("auto", "paired", "observables/train/init_loss"),
        ("paired", "paired", "observables/train/init_loss"),
        ("trace", "trace", "trace/init_loss_mean"),
    ):
        result = compute_susceptibilities(tree, "train", initial_loss=option)
        assert result.attrs["initial_loss"] == used
        values = result["labelled/susceptibility"].sel(chosen)
        np.testing.assert_allclose(values, _plain(tree, "code", 1, path=path), rtol=1e-5)
    del tree["observables/train"]["init_loss"]
    assert compute_susceptibilities(tree, "train").attrs["initial_loss"] == "trace"
    with pytest.raises(MissingDataError, match="pass 'trace'"):
        compute_susceptibilities(tree, "train", initial_loss="paired")


@pytest.mark.heavy
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("transform", [{}, {"z_score": True}, {"z_score": True, "centre_rows": True}])
def test_the_error_of_the_initial_loss_is_part_of_the_stated_error(transform, shared, lazy):
    """As far as the estimate moves when L0 is larger by its standard error."""
    tree = synthetic_tree(num_restrictions=3, observables=_observables(), ragged=True)
    tree.attrs["config"] = json.dumps(
        json.loads(tree.attrs["config"]) | {"match_sampling_input_ids_across_chains": shared}
    )
    error = np.array([0.1, 0.2, 0.3, 0.4])
    tree["trace/init_loss_mean_se"].values[:] = error
    combined = error.mean() if shared else np.sqrt((error**2).sum()) / 4
    options = {"initial_loss": "trace", **transform}

    def values(tree, error):
        moved = tree.copy(deep=True)
        moved["trace/init_loss_mean"] = moved["trace/init_loss_mean"] + error
        result = compute_susceptibilities(moved, "train", standard_errors="none", **options)
        return result["labelled/susceptibility"].to_numpy()

    def jackknife(estimates):
        return np.sqrt(3 / 4 * ((estimates - estimates.mean(0)) ** 2).sum(0))

    left_out = [tree.isel(chain=np.delete(np.arange(4), chain)) for chain in range(4)]
    plain, shifted = (np.stack([values(part, error) for part in (tree, *left_out)]) for error in (0, combined))
    shift = shifted - plain
    # The noise of the shift itself is in the spread of chains already.
    squares = np.maximum(shift[0] ** 2 - jackknife(shift[1:]) ** 2, 0)
    chains = jackknife(plain[1:])
    result = compute_susceptibilities(tree.chunk({"sequence": 2}) if lazy else tree, "train", **options)["labelled"]
    np.testing.assert_allclose(result["susceptibility_se"], np.sqrt(chains**2 + squares), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result["susceptibility_dof"], 3 * (1 + squares / chains**2) ** 2, rtol=1e-3)
    assert (result["susceptibility_dof"].sel(restriction="part1") > 4).any()
    if "centre_rows" not in transform:
        assert (result["susceptibility_dof"].sel(restriction="full").dropna("position") == 3).all()


def test_an_unknown_error_of_the_initial_loss_is_nan_with_a_reason():
    tree = synthetic_tree(num_restrictions=2, observables=_observables())
    del tree["trace"]["init_loss_mean_se"]
    error = compute_susceptibilities(tree, "train", initial_loss="trace")["labelled/susceptibility_se"]
    assert np.isnan(error.sel(restriction="part1")).all()
    assert np.isfinite(error.sel(restriction="full", observable="code")).all()  # where L0 drops out
    assert "starting weights" in error.attrs["reason"]
    assert "reason" not in compute_susceptibilities(tree, "train")["labelled/susceptibility_se"].attrs
    lazy = compute_susceptibilities(tree.chunk({"sequence": 2}), "train", initial_loss="trace")
    np.testing.assert_allclose(lazy["labelled/susceptibility_se"], error, rtol=1e-8)


def test_jackknife_leaves_out_chains():
    tree = synthetic_tree(num_restrictions=2, observables=_observables())
    result = compute_susceptibilities(tree, "train")["labelled"]
    left_out = []
    for chain in range(4):
        part = tree.isel(chain=np.delete(np.arange(4), chain))
        left_out.append(
            compute_susceptibilities(part, "train", standard_errors="none")["labelled/susceptibility"].to_numpy()
        )
    left_out = np.stack(left_out)
    expected = np.sqrt(3 / 4 * ((left_out - left_out.mean(0)) ** 2).sum(0))
    np.testing.assert_allclose(result["susceptibility_se"], expected, rtol=1e-6, atol=1e-12)
    assert result["susceptibility_se"].attrs == {"degrees_of_freedom": 3}
    single = compute_susceptibilities(synthetic_tree(num_chains=1, num_restrictions=2), "train")
    assert np.isnan(single["labelled/susceptibility_se"]).all()
    assert "at least two" in single["labelled/susceptibility_se"].attrs["reason"]
    assert "susceptibility_se" not in compute_susceptibilities(tree, "train", standard_errors="none")["labelled"]


def test_error_by_effective_sample_size():
    tree = synthetic_tree(num_restrictions=2, observables=_observables())
    result = compute_susceptibilities(tree, "train", standard_errors="ess")["labelled/susceptibility_se"].sel(
        observable="code"
    )
    mean = tree["observables/train/loss"].to_numpy().astype(float).mean((3, 4))
    gap = mean[..., None] - tree["observables/code/loss"].to_numpy().astype(float)[:, :, :, 2, :]
    phi = mean - float(tree["observables/train/init_loss"].astype(float).mean())
    own = (phi[0] - phi[0].mean())[..., None] * (gap[0] - gap[0].mean((0, 1)))
    np.testing.assert_allclose(result[0, 2], mcse(own.transpose(2, 0, 1)), rtol=1e-6)
    other = phi[1][..., None] * (gap[1] - gap[0].mean((0, 1)))
    both = np.hypot(mcse(other.transpose(2, 0, 1)), phi[1].mean() * mcse(gap[0].transpose(2, 0, 1)))
    np.testing.assert_allclose(result[1, 2], both, rtol=1e-6)


def _transformed(chi, names):
    over = ("observable", "sequence", "position")
    for name in names:
        chi = (chi - chi.mean(over)) / chi.std(over) if name == "z_score" else chi - chi.mean("restriction")
    return chi


@pytest.mark.parametrize("transforms", [["z_score"], ["centre_rows"], ["z_score", "centre_rows"]])
def test_transforms_and_their_errors(transforms):
    """The error is the jackknife of transformed estimates, not a transformed error."""
    tree = synthetic_tree(num_restrictions=3, observables=_observables(), ragged=True)
    options = dict.fromkeys(transforms, True)
    result = compute_susceptibilities(tree, "train", **options)
    assert result.attrs["transforms"] == transforms
    plain = compute_susceptibilities(tree, "train")["labelled/susceptibility"]
    values = result["labelled/susceptibility"]
    np.testing.assert_allclose(values, _transformed(plain, transforms), rtol=1e-8, atol=1e-12)
    parts = [tree.isel(chain=np.delete(np.arange(4), chain)) for chain in range(4)]
    left_out = np.stack(
        [_transformed(compute_susceptibilities(part, "train")["labelled/susceptibility"], transforms) for part in parts]
    )
    expected = np.sqrt(3 / 4 * ((left_out - left_out.mean(0)) ** 2).sum(0))
    np.testing.assert_allclose(result["labelled/susceptibility_se"], expected, rtol=1e-6, atol=1e-10)
    with pytest.raises(InvalidInputError, match="standard_errors='ess' is an error of susceptibilities that are not"):
        compute_susceptibilities(tree, "train", standard_errors="ess", **options)


def test_noise_of_another_level_is_named():
    tree = synthetic_tree(num_restrictions=2)
    assert "noise_level" not in compute_susceptibilities(tree, "train").attrs
    tree.attrs["config"] = json.dumps(json.loads(tree.attrs["config"]) | {"noise_level": 0.5})
    assert compute_susceptibilities(tree, "train").attrs["noise_level"] == 0.5


def test_what_is_wrong_is_said():
    tree = synthetic_tree(num_restrictions=2)
    with pytest.raises(
        InvalidInputError, match=r"`sampling_task` is needed: pass one of the observables, \['code', 'train'\]"
    ):
        compute_susceptibilities(tree)
    with pytest.raises(InvalidInputError, match="'train' is the only observable"):
        compute_susceptibilities(synthetic_tree(observables={"train": (3, 4)}))
    with pytest.raises(InvalidInputError, match=r"`full` \(='all'\); the restrictions are \['full', 'part1'\]"):
        compute_susceptibilities(tree, "train", full="all")
    with pytest.raises(BrokenChainsError, match="`susceptibilities` needs finished chains"):
        compute_susceptibilities(synthetic_tree(diverged=[(0, 1)]), "train")
    one = compute_susceptibilities(synthetic_tree(diverged=[(0, 1)]), "train", chains="finished")
    assert one.attrs["chains_used"] == [0, 2, 3]


def test_one_restriction_needs_no_other():
    tree = synthetic_tree()
    result = compute_susceptibilities(tree, "train")
    xr.testing.assert_equal(
        result["labelled"].to_dataset(),
        compute_susceptibilities(tree, "train", estimator="single_run")["labelled"].to_dataset(),
    )


@pytest.mark.parametrize("standard_errors", ["none", "jackknife", "ess"])
@pytest.mark.parametrize("chunks", [{}, {"restriction": 2, "chain": 1, "draw": 7, "sequence": 2, "position": 3}])
def test_lazy_and_independent_of_chunks(chunks, standard_errors):
    options = {"num_restrictions": 3, "observables": _observables(), "ragged": True}
    how = {"z_score": standard_errors != "ess", "standard_errors": standard_errors}
    lazy = compute_susceptibilities(synthetic_tree(**options, chunks=chunks), "train", **how)
    for node in lazy.subtree:
        assert all(variable.chunks is not None for variable in node.data_vars.values())
    expected = compute_susceptibilities(synthetic_tree(**options), "train", **how)
    same_numbers(lazy.compute(), expected, rtol=1e-8)


def test_one_pass_over_the_store():
    tree = synthetic_tree(num_restrictions=3, observables={"train": (8, 9), "web": (40, 9)})
    train = counted(tree, "observables/train/loss", (1, 1, 25, 4, 8))
    web = counted(tree, "observables/web/loss", (1, 1, 25, 8, 8))
    result = compute_susceptibilities(tree, "train")
    assert train.read == web.read == []
    with dask.config.set(scheduler="synchronous"):
        dask.compute(result["labelled/susceptibility"].data, result["labelled/susceptibility_se"].data)
    assert len(train.read) == 3 * 4 * 2 * 2
    assert len(web.read) == 3 * 4 * 2 * 5


def test_can_be_written(tmp_path):
    result = compute_susceptibilities(
        synthetic_tree(num_restrictions=2, observables=_observables(), chunks={}), "train"
    )
    result.to_zarr(tmp_path / "sus.zarr", consolidated=False)
    again = xr.open_datatree(tmp_path / "sus.zarr", engine="zarr", consolidated=False)
    np.testing.assert_array_equal(again["susceptibilities/sus"], result["susceptibilities/sus"])
    assert again["susceptibilities"].attrs["dataset_id_to_name"] == ["code", "web"]
