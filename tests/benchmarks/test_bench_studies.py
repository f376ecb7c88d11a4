"""Opening a study of many runs, and the learning coefficients of all: what one run costs does not grow with their number."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import devinterp
from devinterp import study
from support.small_models import ids, make

pytestmark = pytest.mark.benchmark

RESTRICTIONS = {f"r{number}": None for number in range(20)}


def many_runs(path: Path, number: int) -> Path:
    """Make a study of one run with twenty restrictions, and copies of it under further labels."""
    torch.manual_seed(0)
    study(
        {0: make()}, ids(), output_path=path, weight_restrictions=RESTRICTIONS, lr=1e-3, n_beta=20.0, localization=5.0,
        num_chains=2, num_draws=20, batch_size=4, num_init_loss_batches=2, progress=False,
    )  # fmt: skip
    text = (path / "checkpoint=0" / "zarr.json").read_text()
    for label in range(1, number):
        copy = path / f"checkpoint={label}"
        shutil.copytree(path / "checkpoint=0", copy)
        run = json.loads(text)
        provenance = json.loads(run["attributes"]["provenance"])
        provenance["notes"]["study"]["labels"] = {"checkpoint": label}
        run["attributes"]["provenance"] = json.dumps(provenance)
        (copy / "zarr.json").write_text(json.dumps(run))
    root = json.loads((path / "zarr.json").read_text())
    table = json.loads(root["attributes"]["study"])
    table["runs"] = {f"checkpoint={label}": {"checkpoint": label} for label in range(number)}
    root["attributes"]["study"] = json.dumps(table)
    (path / "zarr.json").write_text(json.dumps(root))
    return path


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = function()
    return time.perf_counter() - began, result


def test_500_runs_with_20_restrictions(tmp_path: Path) -> None:
    costs = {}
    for number in (100, 500):
        path = many_runs(tmp_path / str(number), number)
        timed(lambda path=path: devinterp.open(path))  # files are in the cache of the system, modules imported
        opening, tree = timed(lambda path=path: devinterp.open(path))
        reading, result = timed(tree.slt.llc)
        assert result.sizes["checkpoint"] == number
        assert result.sizes["restriction"] == 20
        costs[number] = opening / number, reading / number
        print(f"\n{number} runs: open {opening:.2f} s, llc() {reading:.2f} s")
    for few, many in zip(costs[100], costs[500], strict=True):
        assert many < 2 * few
