"""``devinterp diagnose``: what it prints, and the exit status by which scripts know the verdict."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import xarray as xr

import devinterp
from devinterp.testing import synthetic_tree

Run = Callable[..., tuple[int, str, str]]
LONG: dict[str, Any] = {"num_draws": 300, "num_burnin_steps": 700, "num_tokens": 3, "batch_size": 2}


def write(tree: xr.DataTree, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata|.*does not have a Zarr V3 specification")
        tree.to_zarr(path)
    return path


def test_a_run_that_can_be_used(run: Run, tmp_path: Path) -> None:
    store = write(synthetic_tree(**LONG, observables={}), tmp_path / "run.zarr")
    code, out, _ = run("diagnose", store)
    assert code == 0
    assert out.splitlines()[0] == "note"
    assert "note too_much_noise (full): the error of `llc_mean` is" in out
    assert "    use `paired_llc_mean`" in out
    assert "not looked at: temperature: `temperature` needs `metrics/virial`" in out


def test_a_run_that_must_not_be_used(run: Run, broken_store: Path) -> None:
    code, out, _ = run("diagnose", broken_store)
    assert code == 4
    assert out.splitlines()[0] == "reject"
    assert "reject diverged (full, chain 1): the chain is diverged: loss became nan" in out


def test_warnings_have_a_status_of_their_own(run: Run, tmp_path: Path) -> None:
    store = write(synthetic_tree(**{**LONG, "num_burnin_steps": 0}, observables={}), tmp_path / "run.zarr")
    code, out, _ = run("diagnose", store)
    assert code == 3
    assert out.splitlines()[0] == "warning"
    assert "warning short_burnin: burn-in is 0 relaxation times" in out


def test_several_runs(run: Run, sweep: Path, tmp_path: Path) -> None:
    code, out, _ = run("diagnose", sweep, "--output", tmp_path / "found.zarr")
    assert code in (3, 4)
    verdicts = devinterp.open(sweep).slt.diagnose()["verdict"]
    (along,) = verdicts.dims
    for label in verdicts[along].to_numpy():
        assert f"{along} {label}: {verdicts.sel({along: label}).item()}" in out
    written = xr.open_dataset(tmp_path / "found.zarr")["verdict"]
    assert written.to_numpy().tolist() == verdicts.to_numpy().tolist()


def test_a_store_that_is_not_there_has_the_status_of_a_failure(run: Run, tmp_path: Path) -> None:
    assert run("diagnose", tmp_path / "nowhere.zarr")[0] == 2
