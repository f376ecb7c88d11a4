"""Stores of DevInterp 2 are read as trees of this package, and written back."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import LocalStore, MemoryStore

import devinterp.store.reading.open as opening
from devinterp import schema
from devinterp.analyses.llc import compute_llc
from devinterp.errors import BrokenChainsError, InvalidInputError, StoreError
from devinterp.store.reading.v2 import from_v2, is_v2, open_v2, to_v2
from devinterp.testing import synthetic_tree
from support.layouts import AT_W0, MOMENTS, RECORDED, VIRIAL, paths_of_schema
from support.small_models import ids, run
from support.v2_results import V2, results

STORE = V2 / "v2_store.zarr"


SAMPLER = {"metadata": {"config": {"sampler": {}}}}


def group_of(attributes: dict, *, losses: bool, zarr_format: int = 3) -> MemoryStore:
    store = MemoryStore()
    root = zarr.open_group(store, mode="w", attributes=attributes, zarr_format=zarr_format)
    if losses:
        names = ("chain", "step", "batch", "token_pos") if zarr_format == 3 else None
        root.create_array("sampling_loss_micro", shape=(1, 1, 1, 1), dtype="f4", dimension_names=names)
    return store


def test_recognised():
    assert is_v2(LocalStore(STORE))
    assert is_v2(group_of(SAMPLER, losses=False)), "by its sampler"
    assert is_v2(group_of({"metadata": {"config": {}}}, losses=True)), "by its losses"
    assert is_v2(group_of(SAMPLER, losses=True, zarr_format=2))


@pytest.mark.parametrize(
    ("attributes", "losses"),
    [
        ({}, True),
        ({"metadata": {}}, True),
        ({"metadata": {"config": {}}}, False),
        ({"metadata": {"config": "sampler"}}, True),
        ({"metadata": "config sampler"}, True),
        ({**SAMPLER, "schema_version": 1}, True),
    ],
)
def test_not_recognised(attributes, losses):
    assert not is_v2(group_of(attributes, losses=losses))


def test_no_store_is_recognised(tmp_path):
    assert not is_v2(MemoryStore())
    assert not is_v2(LocalStore(tmp_path / "nowhere"))
    zarr.create_array(tmp_path / "array.zarr", shape=(2,), dtype="f4")
    assert not is_v2(LocalStore(tmp_path / "array.zarr"))
    assert not (tmp_path / "nowhere").exists()


def test_what_an_incomplete_store_lacks_is_said():
    with pytest.raises(StoreError, match="must have sampling_loss_micro, init_loss"):
        opening.open(group_of(SAMPLER, losses=False))
    store = group_of({"metadata": {"config": {}}}, losses=True)
    zarr.create_array(store, name="init_loss", shape=(1, 1), dtype="f4", dimension_names=("chain", "token_pos"))
    with pytest.raises(StoreError, match="must have its attribute metadata.config.sampler"):
        opening.open(store)


def test_opens_lazily_as_a_complete_tree():
    tree = opening.open(STORE)
    assert schema.is_run(tree)
    assert schema.observable_names(tree) == ["code", "train"]
    absent = {"init_loss_se", "init_loss_mean", "init_loss_mean_se", "sequence_id"}  # v2 stores none of these
    absent = {path for path in schema.DIMS if path.split("/")[-1] in absent} | {"observables/*/init_loss"}
    assert paths_of_schema(tree) == set(schema.DIMS) - MOMENTS - AT_W0 - VIRIAL - RECORDED - absent
    assert tree["trace/loss"].chunks is not None
    np.testing.assert_array_equal(tree["trace/loss"][0], results()["sgld_metrics/sampling_loss_micro"])
    np.testing.assert_array_equal(tree["observables/code/loss"][0], results()["sgld_metrics/loss_code"])
    np.testing.assert_array_equal(tree["metrics/noise"][0], results()["sgld_metrics/metrics_noise"])
    assert tree["draw_step"].to_numpy().tolist() == list(range(12))
    assert int(tree["num_moving"][0]) == 341


def test_analyses_run_on_it():
    llc = compute_llc(opening.open(STORE))
    np.testing.assert_allclose(llc["llc_mean"], results()["sgld_metrics/llc/llc_mean"], rtol=1e-5)


def test_chunks_can_be_chosen():
    tree = open_v2(LocalStore(STORE), {"draw": 5})
    assert tree["observables/code/loss"].chunks[2] == (5, 5, 2)
    assert open_v2(LocalStore(STORE), None)["trace/loss"].chunks is None


def test_a_run_that_was_sampled_into_a_store_can_be_exported(tmp_path):
    tree = run(observables={"code": (ids("code"), 2)}, output_path=tmp_path / "run.zarr")
    flat = to_v2(tree)  # its states are strings of variable width
    assert flat.attrs["completed"] == 1
    np.testing.assert_array_equal(flat["loss_code"], tree["observables/code/loss"][0])


def test_back_and_forth(tmp_path):
    tree = opening.open(STORE)
    to_v2(tree).to_zarr(tmp_path / "again.zarr", zarr_format=3, consolidated=False)
    again = opening.open(tmp_path / "again.zarr")
    original, copied = (
        xr.open_zarr(STORE, consolidated=False),
        xr.open_zarr(tmp_path / "again.zarr", consolidated=False),
    )
    assert set(original.variables) == set(copied.variables)
    for name in original.variables:
        assert original[name].dims == copied[name].dims
        np.testing.assert_allclose(original[name], copied[name], rtol=1e-6)
    xr.testing.assert_identical(again["trace"].to_dataset().compute(), tree["trace"].to_dataset().compute())


def test_one_restriction_and_distinct_names():
    tree = synthetic_tree(num_restrictions=2)
    with pytest.raises(InvalidInputError, match=r"must be one of \['full', 'part1'\]"):
        to_v2(tree)
    flat = to_v2(tree, restriction="part1")
    np.testing.assert_array_equal(flat["loss_code"], tree["observables/code/loss"][1])
    with pytest.raises(InvalidInputError, match="'pile-cc' and 'pile_cc' would both be 'loss_pile_cc'"):
        to_v2(synthetic_tree(num_tokens=3, observables={"pile-cc": (2, 3), "pile_cc": (2, 3)}))


def test_one_length():
    with pytest.raises(InvalidInputError, match=r"one number of positions .* 'observables/web': 4"):
        to_v2(synthetic_tree(observables={"web": (2, 5)}))


def test_gradient_accumulation_is_averaged_at_draws():
    recorded = {name: values for name, values in results().items() if name.startswith("sgld_accumulate/")}
    flat = xr.Dataset(
        {
            "sampling_loss_micro": (("chain", "step", "b", "p"), recorded["sgld_accumulate/sampling_loss_micro"]),
            "init_loss": (("chain", "p"), recorded["sgld_accumulate/init_loss"]),
        },
        attrs={"metadata": {"config": {"sampler": {"batch_size": 4, "num_draws": 12, "n_beta": 20.0}}}},
    )
    np.testing.assert_allclose(
        to_v2(from_v2(flat))["sampling_loss"], recorded["sgld_accumulate/sampling_loss"], rtol=1e-6
    )


def test_broken_and_incomplete_stores_are_marked(tmp_path):
    flat = xr.open_zarr(STORE, consolidated=False).load()
    flat["sampling_loss_micro"][1, 4:] = np.nan
    with pytest.raises(BrokenChainsError, match="chain 1: diverged"):
        compute_llc(from_v2(flat))
    assert compute_llc(from_v2(flat), chains="finished").attrs["chains_used"] == [0]
    flat.attrs["completed"] = 0
    with pytest.raises(BrokenChainsError, match="chain 0: interrupted"):
        compute_llc(from_v2(flat), chains="finished")
    shutil.copytree(STORE, tmp_path / "v2.zarr")
    shutil.rmtree(tmp_path / "v2.zarr" / "init_loss")
    with pytest.raises(StoreError, match="must have init_loss"):
        opening.open(tmp_path / "v2.zarr")


def test_provenance_keeps_what_v2_recorded():
    provenance = json.loads(opening.open(STORE).attrs["provenance"])
    assert provenance["attributes"]["metadata"]["config"]["chain_buffer_size"] == 12
