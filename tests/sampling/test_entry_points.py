"""What users call: the one-call functions, a single chain, the small helpers, the quickstart."""

from __future__ import annotations

import inspect
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from devinterp import sample, sources
from devinterp.errors import InvalidInputError
from devinterp.quickstart import quickstart, report
from devinterp.quickstart import run as quick_run
from devinterp.quickstart.recipes import COMPONENTS, TINY, WHOLE
from devinterp.slt.llc import compute_llc, llc
from devinterp.slt.sampler import sample_single_chain
from devinterp.testing import synthetic_tree
from devinterp.tiny_model import byte_tokenizer
from devinterp.utils import default_nbeta, pack_texts, tokenize_and_concatenate
from support.small_models import SHORT, WithLogits, ids, make, run, snapshot

transformers = pytest.importorskip("transformers")
datasets = pytest.importorskip("datasets")

#: `SHORT` without the name that `llc` has another use for.
BRIEF = {name: value for name, value in SHORT.items() if name != "chains"}


@pytest.fixture(scope="module")
def llama():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = transformers.LlamaConfig(
            vocab_size=23,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
        return transformers.LlamaForCausalLM(config).eval()


# -- one call ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("observables", [None, {"code": ids("code"), "web": (ids("web"), 2)}])
def test_llc_of_a_plain_module(observables):
    found = llc(model=make(), dataset=ids(), observables=observables, **BRIEF)
    assert {"llc_mean", "llc_std", "llc_per_chain", "loss_trace", "init_loss"} <= set(found)
    assert found["llc_per_chain"].sizes == {"chain": 2}
    assert found["loss_trace"].sizes == {"chain": 2, "step": 4}
    assert found["llc_mean"].ndim == 0
    if observables:
        assert found["observable"].to_numpy().tolist() == ["code", "web"]
        assert np.isfinite(found["observable_llc_mean"]).all()


def test_llc_of_a_model_with_logits():
    np.testing.assert_allclose(
        llc(make(WithLogits), ids(), **BRIEF)["llc_mean"], llc(make(), ids(), **BRIEF)["llc_mean"], rtol=1e-5
    )


def test_llc_of_a_huggingface_model(llama):
    before = snapshot(llama)
    table = datasets.Dataset.from_dict({"input_ids": ids().tolist()})
    found = llc(llama, table, {"code": ids("code")}, **BRIEF)
    assert np.isfinite(found["llc_mean"])
    assert snapshot(llama) == before
    # The loss is the one the library computes.
    tree = run(llama, ids())
    rows = tree["trace/sequence_id"].to_numpy()[0, 0]
    with torch.no_grad():
        expected = llama(input_ids=ids()[rows], labels=ids()[rows]).loss
    np.testing.assert_allclose(tree["trace/loss"][0, 0, 0].mean(), float(expected), rtol=1e-5)


@pytest.mark.parametrize("chains", ["sequential", "auto"])
def test_v2s_argument_names_all_work(llama, chains):
    tree = sample(
        model=llama,
        dataset=ids(),
        observables={"train": ids(), "code": (ids("code"), 1)},
        lr=1e-4,
        n_beta=30,
        param_masks={"lm_head.weight": torch.ones(23, 16, dtype=torch.bool)},
        num_chains=2,
        num_draws=2,
        batch_size=4,
        num_burnin_steps=1,
        num_steps_bw_draws=2,
        num_init_loss_batches=1,
        init_seed=1,
        batches_per_draw=2,
        obs_seed=2,
        gradient_accumulation_steps=2,
        localization=10.0,
        noise_level=1.0,
        llc_weight_decay=0.1,
        bounding_box_size=1.0,
        sampling_method="rmsprop_sgld",
        sampling_method_kwargs=None,
        rmsprop_eps=0.1,
        rmsprop_alpha=0.9,
        shuffle=True,
        match_sampling_input_ids_across_chains=False,
        init_noise=0.001,
        device="cpu",
        save_metrics=True,
        output_path=None,
        loss_fn=None,
        chains=chains,
    )
    assert tree["trace/loss"].sizes == {"restriction": 1, "chain": 2, "step": 5, "batch": 8, "position": 8}
    assert tree["observables/train/loss"].sizes["sequence"] == 8
    assert tree["observables/code/loss"].sizes["sequence"] == 4
    assert np.isfinite(tree["trace/loss"]).all()
    assert tree["draw_step"].to_numpy().tolist() == [1, 3]
    assert float(tree["num_moving"][0]) == 23 * 16


def test_one_call_shows_the_arguments_of_sampling():
    parameters = inspect.signature(llc).parameters
    for name in ("model", "dataset", "observables", "lr", "n_beta", "num_chains", "output_path", "burnin"):
        assert name in parameters
    assert "sampling" not in parameters
    with pytest.raises(TypeError, match="learning_rate"):
        llc(make(), ids(), learning_rate=1e-3, **BRIEF)


def test_one_call_leaves_a_store(tmp_path):
    import devinterp

    found = llc(make(), ids(), output_path=tmp_path / "run.zarr", **BRIEF)
    again = compute_llc(devinterp.open(tmp_path / "run.zarr"))
    np.testing.assert_array_equal(found["llc_mean"], again["llc_mean"])


# -- a single chain ---------------------------------------------------------------------------------------------------


def losses_of(model, batch):
    return nn.functional.cross_entropy(model(batch)[:, :-1].transpose(1, 2), batch[:, 1:], reduction="none")


@pytest.mark.parametrize("chain", [0, 1])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_single_chain_is_that_chain_of_a_run(chain, accumulate):
    options = {
        **{
            n: v
            for n, v in SHORT.items()
            if n not in ("num_chains", "chains", "num_init_loss_batches", "batches_per_draw")
        },
        "num_burnin_steps": 2,
        "num_steps_bw_draws": 2,
        "gradient_accumulation_steps": accumulate,
    }

    def evaluate(model, batch):
        losses = losses_of(model, batch)
        return losses.mean(), {"token": losses, "size": model.head.weight.norm(), "count": 3}

    found = sample_single_chain(make(), ids(), evaluate, chain=chain, **options)
    tree = run(**options)
    trace = tree["trace/loss"][0, chain]
    np.testing.assert_allclose(found["loss"], trace.mean(["batch", "position"]), rtol=1e-6)
    assert found["token"].sizes == {"draw": 4, "token_dim_0": 4, "token_dim_1": 8}
    last = trace.isel(step=tree["draw_step"].to_numpy())[:, -4:]
    np.testing.assert_allclose(found["token"], last, rtol=1e-5)
    assert found["size"].sizes == {"draw": 4}
    assert found["count"].to_numpy().tolist() == [3] * 4


def test_a_single_chain_without_results_and_with_one():
    def bare(model, batch):
        return losses_of(model, batch).mean(), None

    def one(model, batch):
        return losses_of(model, batch).mean(), model.head.bias

    options = {"lr": 1e-3, "n_beta": 1.0, "num_draws": 3, "batch_size": 4}
    assert set(sample_single_chain(make(), ids(), bare, **options)) == {"loss"}
    found = sample_single_chain(make(), ids(), one, param_masks={"head.bias": None}, **options)
    assert found["results"].sizes == {"draw": 3, "results_dim_0": 23}
    assert len(np.unique(found["results"][:, 0])) == 3, "results are copies, not views of what moves on"


# -- helpers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "steps"), [(32, 1), (8, 4), (2, 1), (1, 2)])
def test_default_nbeta(batch, steps):
    total = batch * steps
    assert default_nbeta(batch, steps) == pytest.approx(total / math.log(total))
    assert default_nbeta(DataLoader(ids(), batch_size=batch), steps) == default_nbeta(batch, steps)


def test_default_nbeta_needs_two():
    with pytest.raises(
        InvalidInputError, match=r"the effective batch size \(=1\) must be at least 2, because log\(1\) is 0"
    ):
        default_nbeta(1)


TEXTS = ["one two", "three", "a much longer text than these"]


@pytest.mark.parametrize("add_bos_token", [True, False])
@pytest.mark.parametrize("streaming", [True, False])
def test_tokenize_and_concatenate(add_bos_token, streaming):
    tokenizer = byte_tokenizer()
    table = datasets.Dataset.from_dict({"text": TEXTS, "other": [1, 2, 3]})
    if streaming:
        table = table.to_iterable_dataset()
    packed = tokenize_and_concatenate(table, tokenizer, streaming, max_length=8, add_bos_token=add_bos_token)
    rows = [row["input_ids"].tolist() for row in packed]
    assert all(len(row) == 8 for row in rows)
    body = [token for row in rows for token in (row[1:] if add_bos_token else row)]
    whole = tokenizer("<|endoftext|>".join(TEXTS) + "<|endoftext|>")["input_ids"]
    assert body == whole[: len(body)]
    assert len(whole) - len(body) < 8
    if add_bos_token:
        assert {row[0] for row in rows} == {tokenizer.bos_token_id}
    if not streaming:
        assert packed.column_names == ["input_ids"]
        model = nn.Sequential(nn.Embedding(len(tokenizer), 4), nn.Linear(4, len(tokenizer)))
        assert np.isfinite(run(model, packed, num_draws=1)["trace/loss"]).all()


def test_tokenize_and_concatenate_refuses():
    tokenizer = byte_tokenizer()
    table = datasets.Dataset.from_dict({"text": TEXTS})
    with pytest.raises(InvalidInputError, match=r"the dataset has no column 'content'; it has text"):
        tokenize_and_concatenate(table, tokenizer, column_name="content")
    with pytest.raises(InvalidInputError, match=r"`max_length` \(=1\) must be at least 2"):
        tokenize_and_concatenate(table, tokenizer, max_length=1)

    class Bare:
        eos_token_id = bos_token_id = None

    with pytest.raises(InvalidInputError, match="neither an end- nor a beginning-of-sequence token"):
        pack_texts(TEXTS, Bare(), 8, add_bos_token=True)


# -- models and texts by name -----------------------------------------------------------------------------------------


def test_texts_that_are_on_every_machine():
    tokenizer = byte_tokenizer()
    for name in (sources.PROSE, sources.CODE):
        rows = sources.load_sequences(name, tokenizer, length=16, limit=20)
        assert len(rows) == 20
        assert rows[0]["input_ids"].shape == (16,)
    assert "import" in "".join(sources.load_texts(sources.CODE))


def test_texts_in_files(tmp_path):
    tokenizer = byte_tokenizer()
    (tmp_path / "a.txt").write_text("hello there " * 10, encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n', encoding="utf-8")
    assert list(sources.load_texts(str(tmp_path / "a.txt"))) == ["hello there " * 10]
    assert list(sources.load_texts(str(tmp_path / "b.jsonl"))) == ["one", "two"]
    assert len(list(sources.load_texts(str(tmp_path)))) == 2
    with pytest.raises(InvalidInputError, match=r"b\.jsonl, line 1 has no 'body'; it has text"):
        list(sources.load_texts(str(tmp_path / "b.jsonl"), column="body"))
    with pytest.raises(InvalidInputError, match=r"holds 6 characters, too few for 64 tokens"):
        sources.load_sequences(str(tmp_path / "b.jsonl"), tokenizer, length=64, limit=2)


def test_names_that_lead_nowhere():
    with pytest.raises(
        InvalidInputError, match=r"(?s)cannot load the model 'no/such-model'.*Expected 'smollm2', a directory"
    ):
        sources.load_model("no/such-model")
    with pytest.raises(
        InvalidInputError, match=r"(?s)cannot load texts 'no/such-texts'.*Expected 'prose', 'code', a file"
    ):
        list(sources.load_texts("no/such-texts"))


def test_a_model_in_a_directory(tmp_path, llama):
    llama.save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    model, tokenizer = sources.load_model(str(tmp_path))
    assert not model.training
    assert len(tokenizer) == 257
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), llama.parameters(), strict=True))


# -- the quickstart ---------------------------------------------------------------------------------------------------


def test_the_byte_tokenizer_loses_nothing():
    tokenizer = byte_tokenizer()
    text = "naïve 日本語 \n\t code()"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.heavy
def test_quickstart(tmp_path, monkeypatch, capsys):
    original, threads = quick_run.tiny_model, torch.get_num_threads()
    monkeypatch.setattr(quick_run, "tiny_model", lambda **given: original(**given, num_steps=3))
    pytest.importorskip("devinterp_plots")
    options = {
        "tiny": True,
        "num_chains": 2,
        "num_draws": 3,
        "length": 16,
        "output": tmp_path / "out",
        "progress": False,
    }
    try:
        tree = quickstart(**options)
        shown = capsys.readouterr().out
        again = quickstart(**options)
        other = quickstart(**options | {"seed": 1, "output": tmp_path / "other"})
    finally:
        torch.set_num_threads(threads)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["llc.png", "run.zarr", "tokens.png", "trace.png"]
    for word in (
        "local learning coefficient",
        "l1 attn",
        "prose",
        "code",
        "R-hat",
        "devinterp.open",
        "Done in",
        "devinterp report",
    ):
        assert word in shown
    notes = json.loads(tree.attrs["provenance"])["notes"]["devinterp quickstart"]
    assert notes == {"model": "", "dataset": "prose", "observable": ["prose=prose", "code=code"]}
    assert "Not to be believed yet" in shown  # of three draws
    assert tree.slt.diagnose().attrs["verdict"] == "reject"
    assert "Verdict:  reject (" in shown
    assert "not said of a run that is rejected" in shown
    assert "More sensitive to" not in shown
    np.testing.assert_array_equal(tree["trace/loss"], again["trace/loss"])
    assert not (tree["trace/loss"] == other["trace/loss"]).all()
    code = shown[shown.index("import devinterp") :].strip().replace("\n    ", "\n")
    assert len(code.splitlines()) == 3
    exec(compile(code, "<next steps>", "exec"), {})  # what a newcomer pastes


def test_seeds_of_the_quickstart_have_no_noise_in_common():
    starts = [
        recipe.changed(components=(), length=None, seed=seed).sampling["init_seed"]
        for recipe in (COMPONENTS, WHOLE, TINY)
        for seed in range(3)
    ]
    num_chains = max(recipe.sampling["num_chains"] for recipe in (COMPONENTS, WHOLE, TINY))
    assert min(np.diff(sorted(set(starts)))) >= num_chains


def test_which_of_two_observables_a_component_is_more_sensitive_to():
    tree = synthetic_tree(num_restrictions=2, num_draws=400, observables={"code": (3, 9), "prose": (4, 9)})
    llc = tree.slt.llc()["observable_llc_mean"]
    difference = report.second_less_first(tree, "prose", "code")
    expected = llc.sel(observable="code") - llc.sel(observable="prose")
    np.testing.assert_allclose(difference["difference"], expected, rtol=1e-6)
    assert (report.second_less_first(tree, "code", "code") == 0)[["difference", "difference_se"]].all()
    names = [str(name) for name in tree["restriction"].values]
    difference["difference_se"].attrs.clear()
    size = float(llc.isel(restriction=0).mean())
    result = (abs(llc) * 0 + size).to_dataset(name="observable_llc_mean")

    def said(*differences: float, error: float) -> list[str]:
        given = difference.assign(difference=("restriction", list(differences)))
        given["difference_se"].values[:] = error
        return report.comparison(result, given, "prose", "code").splitlines()

    equal = "No difference that is surely (99%) larger than 5%: "
    assert said(-0.2 * size, 0.01 * size, error=0.01 * size) == [
        f"More sensitive to prose than to code: {names[0]}.",
        f"{equal}{names[1]}.",
    ]
    assert said(0.051 * size, 0.049 * size, error=0.0001 * size) == [
        f"More sensitive to code than to prose: {names[0]}.",
        f"{equal}{names[1]}.",
    ]
    assert said(-0.2 * size, 0.2 * size, error=0.06 * size) == [f"{equal}{names[0]}, {names[1]}."]


def test_quickstart_refuses_labels_that_collide(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "text").write_text("word " * 200)
    given = (str(tmp_path / "a" / "text"), str(tmp_path / "b" / "text"))
    with pytest.raises(InvalidInputError, match="would both be called by their last part"):
        quick_run._sample(None, dict.fromkeys(given), given[0], given, COMPONENTS, tmp_path, False, {})
