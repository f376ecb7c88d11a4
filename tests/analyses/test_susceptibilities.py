from __future__ import annotations

import dask
import numpy as np
import pytest
import xarray as xr

from devinterp.analyses.common.convergence import mcse
from devinterp.analyses.susceptibilities import compute_susceptibilities
from devinterp.errors import BrokenChainsError, InvalidInputError, MissingDataError
from devinterp.testing import synthetic_tree
from support.counted_reads import counted
from support.v2_results import joined, results


def _observables():
    return {"train": (8, 9), "code": (6, 9), "web": (3, 6)}


def _plain(tree, name, restriction, estimator="two_run", initial=None):
    """The definition, in float64."""
    task = tree["observables/train/loss"].to_numpy().astype(float)
    tokens = tree[f"observables/{name}/loss"].to_numpy().astype(float)
    mean = np.nanmean(task, axis=(3, 4))
    initial = float(tree["trace/init_loss_mean"].mean()) if initial is None else initial
    phi, loss = mean[restriction] - initial, tokens[restriction]
    reference = 0 if estimator == "two_run" else restriction
    gap = mean[reference].mean() - tokens[reference].mean((0, 1))
    return (phi * mean[restriction]).mean() - (phi[..., None, None] * loss).mean((0, 1)) - phi.mean() * gap


@pytest.mark.parametrize("lazy", [False, True])
def test_equals_v2(lazy):
    tree = joined(full="sgld_localized", restricted="sgld_masked")
    found = compute_susceptibilities(tree.chunk({"draw": 5, "sequence": 5}) if lazy else tree, "train")
    table = found["susceptibilities"]
    assert table["wr"].to_numpy().tolist() == ["full", "restricted"]
    expected = results()["susceptibilities/sus"][:, 0]
    np.testing.assert_allclose(
        table["sus"].sel(wr="restricted"), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
    )
    assert table.attrs["dataset_id_to_name"] == {"0": "code"}
    ids = results()["sgld_localized/input_ids_code"]
    np.testing.assert_array_equal(found["context/input_ids"], ids.reshape(-1))


@pytest.mark.parametrize("estimator", ["two_run", "single_run"])
@pytest.mark.parametrize("ragged", [False, True])
def test_is_its_definition(ragged, estimator):
    tree = synthetic_tree(num_restrictions=3, observables=_observables(), ragged=ragged)
    found = compute_susceptibilities(tree, "train", estimator=estimator, include_sampling_task=True)["labelled"]
    for n, restriction in enumerate(["full", "part1", "part2"]):
        for name, (num_sequences, num_tokens) in _observables().items():
            chi = found["susceptibility"].sel(restriction=restriction, observable=name)
            inside = chi.isel(sequence=slice(num_sequences), position=slice(num_tokens - 1))
            np.testing.assert_allclose(inside, _plain(tree, name, n, estimator), rtol=1e-5, atol=1e-8)
            assert np.isnan(chi.isel(sequence=slice(num_sequences, None))).all()


def test_is_minus_the_covariance_when_the_runs_coincide():
    tree = synthetic_tree(num_restrictions=2, observables=_observables())
    found = compute_susceptibilities(tree, "train")["labelled"]["susceptibility"].sel(
        restriction="full", observable="code"
    )
    mean = tree["observables/train/loss"].to_numpy().astype(float)[0].mean((2, 3))
    tokens = tree["observables/code/loss"].to_numpy().astype(float)[0]
    gap = tokens - mean[..., None, None]
    covariance = ((mean - mean.mean())[..., None, None] * gap).mean((0, 1))
    np.testing.assert_allclose(found, -covariance, rtol=1e-6, atol=1e-10)


def test_labels_and_tables_agree():
    tree = synthetic_tree(num_restrictions=2, observables=_observables())
    found = compute_susceptibilities(tree, "train")
    table, labelled = found["susceptibilities"].to_dataset(), found["labelled"].to_dataset()
    assert table["sus"].dims == ("sus_flat", "wr")
    assert table.sizes["sus_flat"] == 6 * 8 + 3 * 5
    assert table.attrs["dataset_id_to_name"] == {"0": "code", "1": "web"}
    for row in (0, 13, 47, 48, 62):
        one = table.isel(sus_flat=row)
        name = table.attrs["dataset_id_to_name"][str(int(one["dataset_id"]))]
        place = {"observable": name, "sequence": int(one["batch"]), "position": int(one["target_position"])}
        np.testing.assert_array_equal(one["sus"], labelled["susceptibility"].sel(place))
        np.testing.assert_array_equal(one["sus_se"], labelled["susceptibility_se"].sel(place))
    context = found["context"].to_dataset()
    last = context.isel(ctx_flat=-1)
    assert (int(last["dataset_id"]), int(last["batch"]), int(last["position"])) == (1, 2, 5)
    assert int(last["input_ids"]) == int(tree["observables/web/token_ids"][2, 5])
    assert labelled["token_ids"].dims == ("observable", "sequence", "token")
    assert (labelled["token_ids"].sel(observable="web")[3:] == -1).all()
    assert set(
        compute_susceptibilities(tree, "train", include_sampling_task=True)["labelled"]["observable"].to_numpy()
    ) == set(_observables())


def test_initial_loss_can_be_paired():
    tree = synthetic_tree(num_restrictions=2, observables=_observables())
    initial = float(tree["observables/train/init_loss"].mean())
    found = compute_susceptibilities(tree, "train", initial_loss="paired")["labelled"]["susceptibility"]
    np.testing.assert_allclose(
        found.sel(restriction="part1", observable="code"), _plain(tree, "code", 1, initial=initial), rtol=1e-5
    )
    del tree["observables/train"]["init_loss"]
    with pytest.raises(MissingDataError, match="pass 'trace'"):
        compute_susceptibilities(tree, "train", initial_loss="paired")


def test_jackknife_leaves_out_chains():
    tree = synthetic_tree(num_restrictions=2, observables=_observables())
    found = compute_susceptibilities(tree, "train")["labelled"]
    left_out = []
    for chain in range(4):
        part = tree.isel(chain=np.delete(np.arange(4), chain))
        left_out.append(
            compute_susceptibilities(part, "train", standard_errors="none")["labelled/susceptibility"].to_numpy()
        )
    left_out = np.stack(left_out)
    expected = np.sqrt(3 / 4 * ((left_out - left_out.mean(0)) ** 2).sum(0))
    np.testing.assert_allclose(found["susceptibility_se"], expected, rtol=1e-6, atol=1e-12)
    assert found["susceptibility_se"].attrs == {"degrees_of_freedom": 3}
    single = compute_susceptibilities(synthetic_tree(num_chains=1, num_restrictions=2), "train")
    assert np.isnan(single["labelled/susceptibility_se"]).all()
    assert "susceptibility_se" not in compute_susceptibilities(tree, "train", standard_errors="none")["labelled"]


def test_error_by_effective_sample_size():
    tree = synthetic_tree(num_restrictions=2, observables=_observables())
    found = compute_susceptibilities(tree, "train", standard_errors="ess")["labelled/susceptibility_se"].sel(
        observable="code"
    )
    mean = tree["observables/train/loss"].to_numpy().astype(float).mean((3, 4))
    gap = mean[..., None] - tree["observables/code/loss"].to_numpy().astype(float)[:, :, :, 2, :]
    phi = mean - float(tree["trace/init_loss_mean"].mean())
    own = (phi[0] - phi[0].mean())[..., None] * (gap[0] - gap[0].mean((0, 1)))
    np.testing.assert_allclose(found[0, 2], mcse(own.transpose(2, 0, 1)), rtol=1e-6)
    other = phi[1][..., None] * (gap[1] - gap[0].mean((0, 1)))
    both = np.hypot(mcse(other.transpose(2, 0, 1)), phi[1].mean() * mcse(gap[0].transpose(2, 0, 1)))
    np.testing.assert_allclose(found[1, 2], both, rtol=1e-6)


def test_z_scores_and_centred_rows():
    tree = synthetic_tree(num_restrictions=3, observables=_observables(), ragged=True)
    plain = compute_susceptibilities(tree, "train")["labelled"]
    scored = compute_susceptibilities(tree, "train", z_score=True)["labelled"]
    over = ("observable", "sequence", "position")
    mean, std = plain["susceptibility"].mean(over), plain["susceptibility"].std(over)
    np.testing.assert_allclose(scored["susceptibility"], (plain["susceptibility"] - mean) / std, rtol=1e-8)
    np.testing.assert_allclose(scored["susceptibility_se"], plain["susceptibility_se"] / std, rtol=1e-8)
    centred = compute_susceptibilities(tree, "train", z_score=True, centre_rows=True)["labelled/susceptibility"]
    np.testing.assert_allclose(
        centred, scored["susceptibility"] - scored["susceptibility"].mean("restriction"), rtol=1e-8, atol=1e-12
    )


def test_what_is_wrong_is_said():
    tree = synthetic_tree(num_restrictions=2)
    with pytest.raises(InvalidInputError, match=r"the observable has to be one of \['code', 'train'\]"):
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
    found = compute_susceptibilities(tree, "train")
    xr.testing.assert_equal(
        found["labelled"].to_dataset(),
        compute_susceptibilities(tree, "train", estimator="single_run")["labelled"].to_dataset(),
    )


@pytest.mark.parametrize("standard_errors", ["none", "jackknife", "ess"])
@pytest.mark.parametrize("chunks", [{}, {"restriction": 2, "chain": 1, "draw": 7, "sequence": 2, "position": 3}])
def test_lazy_and_independent_of_chunks(chunks, standard_errors):
    options = {"num_restrictions": 3, "observables": _observables(), "ragged": True}
    lazy = compute_susceptibilities(
        synthetic_tree(**options, chunks=chunks), "train", z_score=True, standard_errors=standard_errors
    )
    for node in lazy.subtree:
        assert all(variable.chunks is not None for variable in node.data_vars.values())
    expected = compute_susceptibilities(
        synthetic_tree(**options), "train", z_score=True, standard_errors=standard_errors
    )
    xr.testing.assert_allclose(lazy.compute(), expected, rtol=1e-8)


def test_one_pass_over_the_store():
    tree = synthetic_tree(num_restrictions=3, observables={"train": (8, 9), "web": (40, 9)})
    train = counted(tree, "observables/train/loss", (1, 1, 25, 4, 8))
    web = counted(tree, "observables/web/loss", (1, 1, 25, 8, 8))
    found = compute_susceptibilities(tree, "train")
    assert train.read == web.read == []
    with dask.config.set(scheduler="synchronous"):
        dask.compute(found["labelled/susceptibility"].data, found["labelled/susceptibility_se"].data)
    assert len(train.read) == 3 * 4 * 2 * 2
    assert len(web.read) == 3 * 4 * 2 * 5


def test_can_be_written(tmp_path):
    found = compute_susceptibilities(synthetic_tree(num_restrictions=2, observables=_observables(), chunks={}), "train")
    found.to_zarr(tmp_path / "sus.zarr", consolidated=False)
    again = xr.open_datatree(tmp_path / "sus.zarr", engine="zarr", consolidated=False)
    np.testing.assert_array_equal(again["susceptibilities/sus"], found["susceptibilities/sus"])
    assert again["susceptibilities"].attrs["dataset_id_to_name"] == {"0": "code", "1": "web"}
