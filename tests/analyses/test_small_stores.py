"""A small store: what an analysis requires is read once and kept, and its results are numbers."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import xarray as xr

import devinterp
from devinterp.testing import synthetic_tree
from support.small_models import same_numbers

CALLS = {
    "llc": lambda tree: tree.slt.llc(),
    "token_llc": lambda tree: tree.slt.token_llc("code"),
    "bif": lambda tree: tree.slt.bif(burnin=7),
    "strongest": lambda tree: tree.slt.bif(top_k=3),
    "susceptibilities": lambda tree: tree.slt.susceptibilities("train"),
}


def _tree(result: xr.Dataset | xr.DataTree) -> xr.DataTree:
    return result if isinstance(result, xr.DataTree) else xr.DataTree(result)


def _is_lazy(result: xr.Dataset | xr.DataTree) -> bool:
    return any(variable.chunks is not None for node in _tree(result).subtree for variable in node.data_vars.values())


@pytest.mark.parametrize("name", CALLS)
def test_the_second_call_reads_nothing(name, tmp_path):
    path = tmp_path / "run.zarr"
    synthetic_tree(num_burnin_steps=5).to_zarr(path)
    tree = devinterp.open(path)
    first = CALLS[name](tree)
    assert not _is_lazy(first)
    lazy = CALLS[name](devinterp.open(path, eager_bytes=0))
    assert _is_lazy(lazy)
    assert ".compute()" in repr(devinterp.open(path, eager_bytes=0).slt)
    assert ".compute()" not in repr(tree.slt)
    same_numbers(_tree(lazy.compute()), _tree(first), atol=1e-6)
    shutil.rmtree(path)
    xr.testing.assert_identical(CALLS[name](tree), first)


def test_what_is_not_required_is_not_read(tmp_path):
    path = tmp_path / "run.zarr"
    synthetic_tree().to_zarr(path, encoding={"/trace": {"loss": {"fill_value": np.nan}}})
    tree = devinterp.open(path)
    tree.slt.bif()
    shutil.rmtree(path / "trace/loss/c")
    assert tree["trace/loss"].isnull().all()
