"""What scripts written for DevInterp 2 do, as they are written."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
import xarray as xr
from torch import nn

from devinterp.errors import InvalidInputError, MissingDataError
from devinterp.slt.bif import bif, compute_bif
from devinterp.slt.llc import compute_llc, llc
from devinterp.slt.lm_loss import (
    NonFiniteLogitsError,
    compute_per_token_loss,
    lm_cross_entropy_loss,
    lm_forward_logits,
    make_evaluate_fn,
)
from devinterp.slt.observables import DeterministicShuffledSampler, Observable, to_obs_id
from devinterp.slt.one_call import of_each_run
from devinterp.slt.sampling import sample
from devinterp.slt.susceptibilities import compute_susceptibilities, susceptibilities
from support.small_models import SHORT, ids, make

R = {name: value for name, value in SHORT.items() if name != "chains"}


@pytest.fixture(scope="module")
def data():
    named = {name: ids(name).tolist() for name in ("train", "code", "web")}
    return {name: datasets.Dataset.from_dict({"input_ids": rows}).with_format("torch") for name, rows in named.items()}


@pytest.fixture(scope="module")
def tree(data):
    return sample(make(), data["train"], {"train": (data["train"], 2), "co-de": data["code"]}, **R)


@pytest.fixture(scope="module")
def head(data):
    observables = {"train": (data["train"], 2), "co-de": data["code"]}
    return sample(make(), data["train"], observables, param_masks={"head.weight": torch.ones(23, 6) > 0}, **R)


def test_influences(tree):
    whole = compute_bif(samples=tree, correlation_method="sequence", batch_size=8, device="cpu")["influences"]
    assert whole.shape == (12, 12)
    np.testing.assert_array_equal(compute_bif(tree, "sequence", loss_keys="all")["influences"], whole)
    rows = {"batch_index_range_1": range(4), "batch_index_range_2": [5, 0]}
    part = compute_bif(tree, method="sequence", **rows)["influences"]
    np.testing.assert_allclose(part, whole[:4, [5, 0]], atol=1e-6)
    both = compute_bif(tree, "sequence", batch_index_range_1="all", batch_index_range_2=np.array([1, -1]))["influences"]
    np.testing.assert_allclose(both, whole[:, [1, 11]], atol=1e-6)
    assert compute_bif(tree, loss_keys=["co_de"], average_tokenwise_bif=True)["influences"].shape == (4, 4)
    with pytest.raises(InvalidInputError, match="expected a slice, integers from -12 to 11"):
        compute_bif(tree, batch_index_range_1=[12])


def test_rows_of_influences_over_several_observables_and_twice(tree):
    whole = compute_bif(tree, "sequence")
    rows = [11, 0, 3, 4, 11]
    part = compute_bif(tree, "sequence", batch_index_range_1=rows)
    np.testing.assert_allclose(part["influences"], whole["influences"][rows], atol=1e-6)
    np.testing.assert_array_equal(part["observable_1"], whole["observable_1"].to_numpy()[rows])
    np.testing.assert_array_equal(part["input_ids"], whole["input_ids"][rows])


def test_one_call(data):
    found = bif(make(), data["train"], {"train": data["train"]}, bif_batch_size=8, bif_device="cpu", **R)
    assert found["influences"].sizes["target_position"] == 8
    result = llc(make(), data["train"], {"train": data["train"]}, **R)
    assert float(result["llc_scalar"]) == float(result["llc_mean"])
    masks = {"full": None, "head": {"head.weight": torch.ones(23, 6, dtype=torch.bool)}}
    observables = {"train": data["train"], "code": data["code"]}
    found = susceptibilities(make(), data["train"], observables, masks, sampling_task="train", **R)
    assert found["susceptibilities/sus"].sizes == {"sus_flat": 32, "wr": 2}


def test_what_cannot_be_analysed_is_refused_before_it_is_sampled(data):
    calls = []

    def loss_fn(model, batch):
        calls.append(1)
        return compute_per_token_loss(model, batch)

    for masks, task, message in (
        ({"head": None}, "train", "`weight_restrictions` must have 'full'"),
        ({"full": None}, "pile", r"`sampling_task` \(='pile'\) must be one of the `observables`"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            susceptibilities(
                make(), data["train"], {"train": data["train"]}, masks, sampling_task=task, loss_fn=loss_fn, **R
            )
    assert not calls


def test_a_tree_for_each_restriction(tree, head, data):
    observables = {"train": (data["train"], 2), "co-de": data["code"]}
    masks = {"full": None, "head": "head.weight"}
    together = compute_susceptibilities(
        sample(make(), data["train"], observables, weight_restrictions=masks, **R), "train"
    )
    apart = compute_susceptibilities(wr_map={"full": tree, "head": head}, sampling_task="train")
    for form in (apart, compute_susceptibilities(xr.DataTree.from_dict({"full": tree, "head": head}), "train")):
        np.testing.assert_allclose(form["susceptibilities/sus"], together["susceptibilities/sus"], rtol=1e-4, atol=1e-9)
        assert form["susceptibilities/wr"].to_numpy().tolist() == ["full", "head"]
    assert apart["susceptibilities"].attrs["dataset_id_to_name"][0] == "co-de"
    chosen = compute_susceptibilities({"full": tree, "head": head}, "train", ["train", "co_de"])
    assert chosen["susceptibilities"].attrs["dataset_id_to_name"] == ["co-de", "train"]
    with pytest.raises(InvalidInputError, match=r"must be there as 'full'; there are \['head'\]"):
        compute_susceptibilities({"head": head}, "train")


def test_trees_that_do_not_belong_together_are_refused(tree, data):
    observables = {"train": (data["train"], 2), "co-de": data["code"]}
    other = sample(make(), data["train"], observables, **{**R, "n_beta": 5.0})
    with pytest.raises(InvalidInputError, match="'full' and 'head' differ in `n_beta` too"):
        compute_susceptibilities({"full": tree, "head": other}, "train")
    other = sample(make(), data["web"], observables, **R)
    with pytest.raises(InvalidInputError, match=r"`trace/\w+` of 'full' and 'head' differ"):
        compute_susceptibilities({"full": tree, "head": other}, "train")
    with pytest.raises(InvalidInputError, match="the dict of them is empty"):
        compute_susceptibilities({}, "train", estimator="single_run")


def test_llcs_of_several_runs(tree, head):
    both = compute_llc(xr.DataTree.from_dict({"a": tree, "b": head}))
    want = [float(compute_llc(each)["llc_mean"]) for each in (tree, head)]
    np.testing.assert_allclose(both["llc_mean"], want)
    with pytest.raises(InvalidInputError, match="got Dataset"):
        of_each_run(compute_llc, tree.to_dataset())


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("sampling_loss", r"`tree\['trace/loss'\]` at the steps"),
        ("sampling_loss_micro", r"`tree\['trace/loss'\]`"),
        ("sampling_input_ids_micro", "is not stored: `tree"),
        ("init_loss", r"`tree\['trace/init_loss'\]`"),
        ("loss_train", r"`tree\['observables/train/loss'\]`"),
        ("input_ids_train", r"`tree\['observables/train/token_ids'\]`"),
        ("loss_co_de", r"observables/co.de/loss'\]`"),
        ("loss_pool", "observable"),
        ("metrics_noise", r"`tree\['metrics/noise'\]`"),
    ],
)
def test_names_of_v2s_stores_say_where_they_are_now(tree, name, place):
    for read in (
        lambda: tree[name],
        lambda: tree.dataset[name],
        lambda: tree.ds[name],
        lambda: tree.isel(chain=0)[name],
    ):
        with pytest.raises(KeyError, match=rf"'{name}' of DevInterp 2 .*{place}.*`tree.slt.to_v2\(\)`"):
            read()
    with pytest.raises(AttributeError, match=place):
        getattr(tree, name)


def test_other_names_give_xarrays_own_message(tree):
    with pytest.raises(KeyError, match="nonsense") as raised:
        tree["nonsense"]
    assert not isinstance(raised.value, MissingDataError)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = tree.nonsense
    assert "loss" in tree["trace"]
    assert tree["trace"]["loss"].ndim == 5


def test_scripts_that_read_flat_names(tree):
    flat = tree.slt.to_v2()
    assert {"sampling_loss", "init_loss", "loss_train", "input_ids_co_de", "loss_co_de"} <= set(flat)
    np.testing.assert_array_equal(flat["loss_train"], tree["observables/train/loss"][0])
    assert flat["loss_train"].dims == ("chain", "draw", "batch_train", "token_pos")


def test_the_loss_of_a_language_model():
    model, rows = make(), ids()[:4]
    logits = lm_forward_logits(model, rows)
    want = F.cross_entropy(model(rows)[:, :-1].transpose(1, 2), rows[:, 1:], reduction="none")
    assert logits.shape == (4, 9, 23)
    torch.testing.assert_close(lm_cross_entropy_loss(logits, rows), want)
    torch.testing.assert_close(compute_per_token_loss(model, rows), want)
    for batch in (rows, {"input_ids": rows}):
        loss, results = make_evaluate_fn()(model, batch)
        torch.testing.assert_close(loss, want)
        assert results == {}
    with pytest.raises(NonFiniteLogitsError, match="not finite"):
        lm_cross_entropy_loss(logits * torch.nan, rows)


def test_the_loss_doubled_and_n_beta_halved_are_the_same_to_the_bit():
    def loss_fn(model, batch):
        return F.cross_entropy(model(batch)[:, :-1].transpose(1, 2), batch[:, 1:], reduction="none")

    options = {**R, "chains": "all", "n_beta": 16.0}
    once = llc(make(), ids(), loss_fn=loss_fn, **options)
    twice = llc(make(), ids(), loss_fn=lambda m, x: 2 * loss_fn(m, x), **{**options, "n_beta": 8.0})
    for name in ("llc_mean", "llc_per_chain", "llc_std"):
        np.testing.assert_array_equal(once[name], twice[name])


def test_an_observable_by_itself(data):
    assert to_obs_id("pile-cc") == "pile_cc"
    assert list(DeterministicShuffledSampler(range(10), 6)) == [1, 0, 4, 9, 6, 5]
    observable = Observable(
        dataset=data["code"],
        task_name="code",
        batches_per_draw=2,
        batch_size=4,
        context_length=8,
        device=torch.device("cpu"),
    )
    tree = sample(make(), data["train"], {"code": (data["code"], 2)}, **R)
    np.testing.assert_array_equal(observable.input_ids, tree["observables/code/token_ids"])
    np.testing.assert_allclose(observable.compute_loss(make()), tree["observables/code/init_loss"], rtol=1e-5)
    with pytest.raises(InvalidInputError, match=r"8 tokens \(`context_length` \+ 1\); got \(4, 9\)"):
        Observable(
            dataset=data["code"], task_name="c", batches_per_draw=1, batch_size=4, context_length=7, device="cpu"
        )


def test_masks_made_by_hand_from_those_of_a_restriction(data):
    from devinterp.slt.weight_restrictions import create_param_masks, preview_weight_restriction

    model = make()
    masks = create_param_masks(model, ["mix.weight", "head.weight"])
    rows = torch.zeros(6, 6, dtype=torch.bool)
    rows[:3] = True
    masks["mix.weight"] = masks["mix.weight"] & rows
    del masks["head.weight"]
    assert int(sum(mask.sum() for mask in masks.values())) == 18
    tree = sample(model, data["train"], {"train": data["train"]}, param_masks=masks, **R)
    assert int(tree["num_moving"][0]) == 18
    assert tree["restriction"].to_numpy().tolist() == ["custom"]
    preview_weight_restriction(model, masks, plain=True)


def test_models_of_one_module(data):
    flat = nn.Sequential(nn.Embedding(23, 4), nn.Linear(4, 23))
    assert np.isfinite(llc(flat, data["train"], {"train": data["train"]}, **R)["llc_mean"])


def test_no_device_finds_the_gpu_and_says_so(monkeypatch, caplog):
    from devinterp import notes
    from devinterp.sampling.prepare import choose_device

    monkeypatch.setattr(notes, "_SAID", set())
    model = make()
    assert choose_device(model, "cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(model, None) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with caplog.at_level("WARNING", logger="devinterp"):
        assert choose_device(model, None) == choose_device(model, None) == "cuda"
    [record] = caplog.records
    assert "sampled on the GPU, on a copy (device=None). device='cpu' samples it where it is" in record.message
    assert choose_device(nn.Linear(2, 2, device="meta"), None) is None


@pytest.mark.gpu
def test_no_device_on_a_machine_with_a_gpu(data):
    model = make()
    tree = sample(model, data["train"], {"train": data["train"]}, **R)
    assert '"device": "cuda:0"' in tree.attrs["provenance"]
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
