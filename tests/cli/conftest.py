"""Runs commands in this process, on small stores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import xarray as xr

from devinterp import cli
from devinterp.testing import synthetic_tree
from support.installed import clean_plugins, installer
from support.written_trees import write

install = pytest.fixture(installer)
_clean_plugins = pytest.fixture(autouse=True)(clean_plugins)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command; return its exit code and what it printed on the two streams."""
    monkeypatch.setenv("COLUMNS", "160")  # so that what is printed does not depend on the terminal
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.run([str(each) for each in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """One run of two restrictions."""
    tree = synthetic_tree(num_restrictions=2, num_chains=3, num_draws=8, num_burnin_steps=4)
    return write(tree, tmp_path / "run.zarr")


@pytest.fixture
def broken_store(tmp_path: Path) -> Path:
    """A run one of whose chains diverged."""
    return write(synthetic_tree(num_chains=3, num_draws=8, diverged=[(0, 1)]), tmp_path / "broken.zarr")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two runs with different step sizes."""
    runs = {}
    for lr in (0.1, 0.02):
        runs[f"lr{lr}"] = synthetic_tree(num_chains=2, num_draws=6, seed=int(lr * 100))
        settings = {**json.loads(runs[f"lr{lr}"].attrs["config"]), "lr": lr}
        runs[f"lr{lr}"].attrs["config"] = json.dumps(settings)
    return write(xr.DataTree(children=runs), tmp_path / "sweep.zarr")
