"""``devinterp calibrate``, and going on from it with ``devinterp sample --from``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import devinterp
from devinterp import Calibration
from devinterp.calibration.recommendation import Recommendation
from devinterp.store.calibration_store import CalibrationStore, write_command
from support.word_model import write_word_model

Run = Callable[..., tuple[int, str, str]]
WORDS = ["<s>", "</s>", "<unk>", "the", "cat", "sat", "on", "a", "mat"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a model without training, and its tokenizer."""
    path = tmp_path_factory.mktemp("model")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    write_word_model(path, WORDS, max_position_embeddings=16, **sizes)
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.npy"
    np.save(path, np.arange(64).reshape(8, 8) % len(WORDS))
    return path


def test_a_refusal_has_a_status_of_its_own(run: Run, model: Path, rows: Path, tmp_path: Path) -> None:
    store = tmp_path / "calibration.zarr"
    code, _, err = run(
        *(
            "calibrate",
            "--model",
            model,
            "--dataset",
            rows,
            "-o",
            store,
            "--n-beta",
            1000,
            "--localization",
            100,
            "--max-gradients",
            2000,
        ),
        *(
            "--batch-size",
            8,
            "--num-chains",
            2,
            "--no-progress",
            "--kernel",
            "baoab",
            "--kernel-option",
            "friction=0.5",
        ),
    )
    assert code == 3, err
    assert "refused:" in err
    assert "short_burnin" in err
    assert "No setting is recommended" in err
    calibration = Calibration.open(store)
    assert calibration.request["kernels"] == {"baoab": {"friction": 0.5}}
    code, _, err = run("sample", "--from", store, "-o", tmp_path / "run.zarr")
    assert code == 3
    assert not (tmp_path / "run.zarr").exists()


def test_a_dry_run(run: Run, model: Path, rows: Path, tmp_path: Path) -> None:
    code, out, err = run("calibrate", "--model", model, "--dataset", rows, "--batch-size", 8, "--dry-run")
    assert code == 0, err
    assert "to be run" in out
    assert "A dry run" in out
    assert list(tmp_path.iterdir()) == [rows]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "`--output-path` says where"),
        (["-o", "c.zarr", "--kernel-option", "friction=1"], "needs exactly one `--kernel`"),
        (["-o", "c.zarr", "--n-beta", "-1"], "`n_beta`"),
        (["-o", "c.zarr", "--kernel", "sgnht"], "the greatest step of 'sgnht'"),
    ],
)
def test_what_cannot_be_calibrated(
    run: Run, model: Path, rows: Path, options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run("calibrate", "--model", model, "--dataset", rows, "--batch-size", 8, *options)
    assert code == 2
    assert message in err
    assert not (tmp_path / "c.zarr").exists()


@pytest.fixture
def recommended(tmp_path: Path, model: Path, rows: Path) -> Path:
    """Write what a calibration leaves that recommends a setting."""
    path = tmp_path / "calibration.zarr"
    recommendation = Recommendation(
        kernel="baoab",
        options={"friction": 0.5},
        lr=1e-4,
        n_beta=20.0,
        localization=10.0,
        batch_size=2,
        num_chains=2,
        num_burnin_steps=3,
        num_draws=4,
        num_steps_bw_draws=2,
        predicted_error=0.05,
        predicted_gradients=22,
        match_sampling_input_ids_across_chains=False,
    )
    store = CalibrationStore.at(path, {"point": []})
    store.write({"result": Calibration({}, {}, [], [], recommendation, 0).to_json()})
    write_command(path, {"model": str(model), "dataset": str(rows), "num_sequences": 6, "observable": []})
    return path


def test_a_run_goes_on_from_a_calibration(run: Run, recommended: Path, tmp_path: Path) -> None:
    store = tmp_path / "run.zarr"
    code, _, err = run("sample", "--from", recommended, "-o", store, "--no-progress", "--num-draws", 5)
    assert code == 0, err
    settings = json.loads(devinterp.open(store).attrs["config"])
    assert (settings["sampling_method"], settings["sampling_method_kwargs"]) == ("baoab", {"friction": 0.5})
    assert (settings["lr"], settings["n_beta"], settings["localization"]) == (1e-4, 20.0, 10.0)
    assert settings["num_draws"] == 5, "what is given replaces what is recommended"
    assert settings["num_steps_bw_draws"] == 2
    assert settings["match_sampling_input_ids_across_chains"] is False
    assert devinterp.open(store)["trace/row_loss"].sizes["row"] == 6


def test_what_is_needed_otherwise(run: Run, model: Path, rows: Path, recommended: Path, tmp_path: Path) -> None:
    code, _, err = run("sample", "--model", model, "--dataset", rows, "--n-beta", 1, "-o", tmp_path / "run.zarr")
    assert code == 2
    assert "`devinterp sample` needs `--lr`: or `--from` a calibration" in err
    write_command(recommended, {})
    code, _, err = run("sample", "--from", recommended, "-o", tmp_path / "run.zarr")
    assert code == 2
    assert "needs `--model`" in err
    assert "was made from Python" in err
    code, _, err = run("sample", "--from", tmp_path / "nowhere.zarr", "-o", tmp_path / "run.zarr")
    assert code == 2
    assert "holds no calibration" in err
