"""``devinterp sample`` on a small model in a directory, as a researcher without a network has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaForCausalLM

import devinterp
from support.word_model import write_word_model

Run = Callable[..., tuple[int, str, str]]

VOCABULARY = "<s> </s> <unk> the cat sat on a mat and saw another dog run over hills"
WORDS = VOCABULARY.split()
SETTINGS = """
--lr 1e-4 --n-beta 20 --localization 10 --num-chains 2 --num-draws 3 --batch-size 2 --length 8 --num-sequences 6
--num-init-loss-batches 2 --batches-per-draw 1
"""
SMALL = SETTINGS.split()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    write_word_model(
        path,
        WORDS,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    return path


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the cat sat on a mat and saw another dog run over the hills " * 20)
    return path


def test_a_run_from_text(run: Run, model: Path, text: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.npy"
    np.save(rows, np.arange(64).reshape(8, 8) % len(WORDS))
    store = tmp_path / "run.zarr"
    code, out, err = run(
        *("sample", "--model", model, "--dataset", text, "--observable", f"ids={rows}", "--observable", f"t={text}"),
        *(
            "--sampling-method",
            "rmsprop_sgld",
            "--kernel-option",
            "alpha=0.9",
            "--metric",
            "distance",
            "--recorder",
            "full_loss",
            "--recorder",
            'small={"recorder": "sketch", "size": 3}',
            "--no-progress",
            "-o",
            store,
            *SMALL,
        ),
    )
    assert code == 0, err
    assert f"Wrote {store}" in out.replace("\n", "")
    tree = devinterp.open(store)
    settings = json.loads(tree.attrs["config"])
    assert (settings["lr"], settings["sampling_method_kwargs"]["alpha"]) == (1e-4, 0.9)
    assert tree["trace/loss"].shape == (1, 2, 3, 2, 7)
    assert [name for name, metric in tree["metrics"].data_vars.items() if "step" in metric.dims] == ["distance"]
    assert tree["observables/ids/token_ids"].shape == (2, 8)
    assert tree["recordings/full_loss/loss"].shape == (1, 2, 3)
    assert tree["recordings/small/sketch"].shape == (1, 2, 3, 3)
    assert set(tree["observables"].children) == {"ids", "t"}
    assert np.isfinite(tree["trace/loss"]).all()
    assert "paired" not in out  # three steps are too few for losses of rows at w0 to be cheap
    assert f"{float(tree.slt.llc()['llc_mean']):.5g}" in out
    code, out, _ = run("llc", store)
    assert code == 0
    assert "llc_mean" in out


def test_the_same_numbers_as_in_python(run: Run, model: Path, text: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.npy"
    np.save(rows, np.arange(64).reshape(8, 8) % len(WORDS))
    code, _, err = run("sample", "--model", model, "--dataset", rows, "-o", tmp_path / "run.zarr", *SMALL)
    assert code == 0, err
    tree = devinterp.sample(
        LlamaForCausalLM.from_pretrained(model).eval(),
        np.load(rows)[:6],
        lr=1e-4,
        n_beta=20,
        localization=10,
        num_chains=2,
        num_draws=3,
        batch_size=2,
        num_init_loss_batches=2,
    )
    np.testing.assert_array_equal(tree["trace/loss"], devinterp.open(tmp_path / "run.zarr")["trace/loss"])


def test_restrictions_by_name(run: Run, model: Path, text: Path, tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    code, _, err = run(
        *("sample", "--model", model, "--dataset", text, "-o", store, *SMALL),
        *("--weight-restrictions", "full", "--weight-restrictions", "l0h1"),
    )
    assert code == 0, err
    tree = devinterp.open(store)
    assert tree["restriction"].values.tolist() == ["full", "l0h1"]
    head = 4 * 16 + 2 * 4 * 16 + 16 * 4  # query rows, key and value rows, output columns
    assert tree["num_moving"].values.tolist()[1] == head


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--observable", "=x"], "`--observable` (='=x') must look like name=value"),
        (["--observable", "a=code", "--observable", "a=prose"], "`--observable` names 'a' twice"),
        (["--recorder", "sketch=3"], "`--recorder` (=sketch=3) must be a name, or a name with settings as JSON"),
        (["--kernel-option", "alpha"], "`--kernel-option` (='alpha') must look like name=value"),
        (["--dataset", "{folder}/none.npy"], "cannot read token ids from"),
        (["--model", "{folder}/none"], "cannot load the model"),
        (["--sampling-method", "sgdl"], "did you mean 'sgld'?"),
        (["--lr", "-1"], "`lr` (=-1.0) must be positive"),
        (["--lr", "fast"], 'unable to convert "fast" into float'),
        (["--batch-size", "100"], "rows, fewer than `batch_size` (=100)"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_anything_is_written(
    run: Run, model: Path, text: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    arguments = {"--model": model, "--dataset": text, "-o": tmp_path / "run.zarr"}
    arguments.update(zip(SMALL[::2], SMALL[1::2], strict=True))
    rest = [each.format(folder=tmp_path) for each in options]
    if len(rest) == 2 and rest[0] in arguments:
        arguments[rest[0]], rest = rest[1], []
    code, _, err = run("sample", *(word for pair in arguments.items() for word in pair), *rest)
    assert code == 2, err
    assert message in err
    assert not (tmp_path / "run.zarr").exists()


def test_masks_are_shown(run: Run, model: Path) -> None:
    code, out, err = run("masks", model, "l0h1")
    assert (code, err) == (0, "")
    assert (
        out.count("256 weights of") == 1
    )  # 4 query rows, 4 key rows and 4 value rows of 16, and 4 output columns of 16
    for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
        assert name in out
    assert "mlp" not in out
    code, out, _ = run("masks", model, "l0h1", "l1 mlp")
    assert code == 0
    assert f"{256 + 3 * 16 * 24:,} weights of" in out


def test_components_are_listed(run: Run, model: Path) -> None:
    code, out, _ = run("masks", model, "--kind", "head")
    assert code == 0
    assert out.split() == [f"l{layer}h{head}" for layer in range(2) for head in range(4)]
    _, out, _ = run("masks", model)
    for name in ("embed", "l1 mlp", "l0 attn"):
        assert name in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["l9h1"], "no layer of LlamaForCausalLM with number 9"),
        (["l0 brain"], "'brain' is no part of a layer"),
        (["--kind", "brain"], 'Invalid value "brain" for --kind'),
    ],
)
def test_masks_that_cannot_be(run: Run, model: Path, arguments: list[str], message: str) -> None:
    code, out, err = run("masks", model, *arguments)
    assert (code, out) == (2, "")
    assert message in err


def test_help_of_sample_describes_every_option(run: Run) -> None:
    _, out, _ = run("sample", "--help")
    for words in (
        "--lr FLOAT",
        "--num-draws INT",
        "Chains, and draws of each.",
        "--weight-restrictions STR",
        "--device STR",
    ):
        assert words in out
    for word in ("loss-fn", "loss-dims", "storage-options", "--observables"):
        assert word not in out


def test_quickstart_is_a_command(run: Run) -> None:
    code, out, _ = run("quickstart", "--help")
    assert code == 0
    for word in ("--tiny", "--model", "--dataset"):
        assert word in out


def test_a_dry_run_says_what_it_would_cost(run: Run, model: Path, text: Path, tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    paths = ["--model", str(model), "--dataset", str(text), "--observable", f"a={text}", "-o", str(store)]
    code, out, _ = run("sample", *paths, *SMALL, "--dry-run")
    assert code == 0
    assert "observables/a/loss" in out
    assert "6 gradients" in out  # two chains of three steps
    assert not store.exists()


def test_a_run_is_made_longer_and_checked(run: Run, model: Path, text: Path, tmp_path: Path) -> None:
    stores = [tmp_path / name for name in ("grown.zarr", "whole.zarr")]
    common = ["--model", str(model), "--dataset", str(text), "--observable", f"a={text}", *SMALL]
    assert run("sample", *common, "-o", str(stores[0]))[0] == 0
    code, out, err = run("resume", str(stores[0]), "--num-draws", "5")
    assert code == 0, err
    longer = ["5" if before == "--num-draws" else word for before, word in zip(["", *common], common, strict=False)]
    assert run("sample", *longer, "-o", str(stores[1]))[0] == 0
    grown, whole = (devinterp.open(store) for store in stores)
    np.testing.assert_array_equal(grown["trace/loss"], whole["trace/loss"])
    np.testing.assert_array_equal(grown["observables/a/loss"], whole["observables/a/loss"])
    code, out, err = run("check", str(stores[0]))
    assert code == 0, err
    assert "everything is there" in out
    damaged = next(path for path in (stores[0] / "observables/a/loss/c").rglob("*") if path.is_file())
    damaged.write_bytes(damaged.read_bytes()[:-3])
    code, out, err = run("check", str(stores[0]))
    assert code != 0
    assert "observables/a/loss" in out + err
    assert run("resume", str(stores[0]), "--repair")[0] == 0
    np.testing.assert_array_equal(devinterp.open(stores[0])["observables/a/loss"], whole["observables/a/loss"])


def test_losses_at_w0_are_completed(run: Run, model: Path, text: Path, tmp_path: Path) -> None:
    """`resume --paired` measures them for a run from before, and changes nothing else; `--no-paired` never does."""
    store, whole = tmp_path / "run.zarr", tmp_path / "whole.zarr"
    common = ["sample", "--model", str(model), "--dataset", str(text), *SMALL, "--no-progress"]
    assert run(*common, "--no-paired", "-o", store)[0] == 0
    assert run(*common, "--paired", "-o", whole)[0] == 0
    before = devinterp.open(store).load()
    _, out, _ = run("llc", store)
    assert "paired" not in out
    for options in ([], ["--no-paired"]):
        code, out, err = run("resume", store, *options)
        assert code == 0, err
        assert "row_loss" not in devinterp.open(store)["trace"]
    code, out, err = run("resume", store, "--paired")
    assert code == 0, err
    assert "paired_llc_mean: paired" in out
    tree, expected = devinterp.open(store), devinterp.open(whole)
    np.testing.assert_array_equal(tree["trace/loss"], before["trace/loss"])
    for name in ("row_id", "row_loss"):
        np.testing.assert_array_equal(tree["trace"][name], expected["trace"][name])
    np.testing.assert_array_equal(tree.slt.llc()["paired_llc_mean"], expected.slt.llc()["paired_llc_mean"])
    code, _, err = run("resume", store, "--num-draws", "5", "--no-paired")  # what is stored is kept, and completed
    assert code == 0, err
    assert np.isfinite(devinterp.open(store).slt.llc()["paired_llc_mean"])
