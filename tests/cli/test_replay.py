"""Runs made again from their stores, and tables of results."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import devinterp
from devinterp import cli
from support.plans import LOADER, PLAN
from support.small_models import make, run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    (folder / "plan.toml").write_text(PLAN.replace('["mix.*"]', '{mix = "mix*", all = "full"}').replace(",...,8", ""))
    (folder / "loader.py").write_text(LOADER)
    np.save(folder / "numbers.npy", np.arange(8 * 9).reshape(8, 9) % 23)
    assert cli.run(["study", str(folder / "plan.toml")]) == 0
    return folder / "study.zarr"


@pytest.mark.heavy
def test_a_run_of_a_plan_is_made_again(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "again.zarr"
    assert cli.run(["replay", str(store), "--run", "checkpoint=2,seed=2", "-o", str(copy)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "the same to the last bit" in shown
    assert devinterp.open(copy)["trace/loss"].equals(devinterp.open(store)["checkpoint=2,seed=2/trace/loss"])
    # What has changed since is said.
    loader = store.parent / "loader.py"
    loader.write_text(LOADER.replace("manual_seed(checkpoint)", "manual_seed(checkpoint + 1)"))
    try:
        assert cli.run(["replay", str(store), "--run", "checkpoint=2,seed=2"]) == 1
        shown = " ".join(capsys.readouterr().out.split())
        assert "not had again: weights:" in shown
        assert "not the same" in shown
        loader.unlink()
        assert cli.run(["replay", str(store), "--run", "checkpoint=2,seed=2"]) == 2
        assert "cannot load 'loader.py:load'" in " ".join(capsys.readouterr().err.split())
    finally:
        loader.write_text(LOADER)
    assert cli.run(["replay", str(store)]) == 2
    assert "needs one sampling run" in capsys.readouterr().err


def test_what_python_began_cannot_be_had(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(make(), output_path=tmp_path / "run")
    assert cli.run(["replay", str(tmp_path / "run")]) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "begun from Python" in shown
    assert "not known are where model and data come from. Call" in shown


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet"])
def test_export(store: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"results.{suffix}"
    assert cli.run(["export", str(store), "-o", str(path)]) == 0
    read = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}[suffix]
    table = read(path)
    llc = devinterp.open(store).slt.llc()
    assert len(table) == 4 * 2 * 2 * 3 - len(table[table["estimate"] == "paired"]) * ("paired_llc_mean" not in llc)
    row = table[
        (table.checkpoint == 2) & (table.seed == 2) & (table.restriction == "all") & (table.estimate == "minibatches")
    ]
    expected = llc.sel(checkpoint=2, seed=2, restriction="all")
    np.testing.assert_allclose(row["mean"].item(), expected["llc_mean"])
    np.testing.assert_allclose(row["se"].item(), expected["llc_se"])
    assert row["verdict"].item() == expected["verdict"]


def test_export_of_other_analyses(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "difference.json"
    command = ["export", str(store), "--analysis", "difference", "--option", "along=checkpoint", "-o", str(path)]
    assert cli.run(command) == 0
    rows = json.loads(path.read_text())
    assert len(rows) == 3 * 2 * 2
    assert {"checkpoint", "seed", "restriction", "llc_difference", "llc_difference_se", "compared_with"} <= set(rows[0])
    assert cli.run(command) == 2
    assert "exists" in capsys.readouterr().err
    assert cli.run(["export", str(store), "-o", "results.txt"]) == 2
    assert "must end in one of .parquet, .csv, .json" in " ".join(capsys.readouterr().err.split())
