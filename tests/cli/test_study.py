"""A study from a plan on the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import devinterp
from devinterp import cli
from support.plans import LOADER, PLAN
from support.small_models import same_numbers


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    (tmp_path / "plan.toml").write_text(PLAN.replace('["mix.*"]', '{mix = "mix*"}'))
    (tmp_path / "loader.py").write_text(LOADER)
    np.save(tmp_path / "numbers.npy", np.arange(8 * 9).reshape(8, 9) % 23)
    return tmp_path / "plan.toml"


def test_a_plan(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["study", str(plan), "--dry-run"]) == 0
    assert "10 runs, 60 gradients" in " ".join(capsys.readouterr().out.split())
    assert not (plan.parent / "study.zarr").exists()
    assert cli.run(["study", str(plan)]) == 0
    tree = devinterp.open(plan.parent / "study.zarr")
    llc = tree.slt.llc()
    assert llc["observable_llc_mean"].dims == ("checkpoint", "seed", "observable")
    assert llc["checkpoint"].values.tolist() == [0, 1, 2, 4, 8]
    assert cli.run(["info", str(plan.parent / "study.zarr")]) == 0
    shown = capsys.readouterr().out
    assert "10 sampling runs" in shown
    assert "checkpoint" in shown
    assert cli.run(["resume", str(plan.parent / "study.zarr")]) == 2
    assert "is a study: the same `devinterp study PLAN`" in " ".join(capsys.readouterr().err.split())
    # The same command has nothing to do; a plan that has grown adds what is missing.
    before = tree.load()
    plan.write_text(plan.read_text().replace("seed = [1, 2]", "seed = [1, 2, 3]"))
    assert cli.run(["study", str(plan)]) == 0
    grown = devinterp.open(plan.parent / "study.zarr")
    assert len(grown.children) == 15
    same_numbers(grown["checkpoint=4,seed=2"].copy().load(), before["checkpoint=4,seed=2"].copy())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("models =", "model =", "no entry 'model'"),
        ('"loader.py:load"', '"loader.py:none"', "cannot load 'loader.py:none'"),
        ('"loader.py:data"', '"prose"', "needs `tokenizer`"),
        ('"numbers.npy"', '"nothing.npy"', "cannot read token ids"),
        ("[over]", "[[rows]]\nlr = 1\n[over]", "both say what varies"),
        ("lr = 1e-3", "lr = -1.0", "must be positive"),
        ("[sample]", "[sample", "cannot read the plan"),
        ('"0,1,2,4,...,8"', '"0,...,8"', "'...' must stand after"),
    ],
)
def test_what_cannot_be(plan: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str) -> None:
    plan.write_text(plan.read_text().replace(old, new))
    assert cli.run(["study", str(plan)]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
