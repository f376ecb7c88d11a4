"""The null run: the same chains at n_beta zero, a run of its own below the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from zarr.storage import LocalStore, MemoryStore

import devinterp
from devinterp import cli
from devinterp.errors import InvalidInputError
from devinterp.sampling.estimate import DryRun
from support.small_models import ids, run, same_numbers


def test_it_is_the_run_at_n_beta_zero() -> None:
    tree = run(observables={"watched": ids()}, null=True)
    alone = run(observables={"watched": ids()}, n_beta=0.0)
    same_numbers(xr.DataTree.from_dict({n.path: n.to_dataset() for n in alone.subtree}), _separate(tree["null"]))
    plain = run(observables={"watched": ids()})
    np.testing.assert_array_equal(tree["trace/loss"], plain["trace/loss"])
    xr.testing.assert_equal(tree.slt.llc(), plain.slt.llc())
    assert float(tree["null"].slt.llc()["llc_mean"]) == 0.0
    # Only noise moves its weights, as far as localization lets it: the draw after the first step is the noise itself.
    assert (tree["null/metrics/virial_square"][..., -1] > 0).all()
    bif = tree["null"].slt.bif(method="sequence", loss_keys="watched")
    assert np.isfinite(bif["influences"]).all()


def _separate(tree: xr.DataTree) -> xr.DataTree:
    return xr.DataTree.from_dict({node.relative_to(tree): node.to_dataset() for node in tree.subtree})


@pytest.mark.heavy
@pytest.mark.parametrize("as_object", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_in_a_store(tmp_path: Path, as_object: bool, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.zarr"
    place = LocalStore(path) if as_object else path
    tree = run(paired=False, null=True, output_path=place)
    same_numbers(tree.load(), run(paired=False, null=True))
    same_numbers(devinterp.open(path).load(), tree)
    for plain in (xr.open_datatree(path, engine="zarr"), devinterp.open(path)):
        assert "null" in plain.children
    # More draws of both, and the very same again.
    longer = run(paired=False, null=True, output_path=place, num_draws=7)
    same_numbers(longer.load(), run(paired=False, null=True, num_draws=7))
    same_numbers(run(paired=False, null=True, output_path=place, num_draws=7).load(), longer)
    # Without it the run is the same run, and keeps what it has; one of fewer draws would not fit below it.
    assert "null" in run(paired=False, output_path=place, num_draws=7).children
    assert "null" not in run(paired=False, output_path=place, num_draws=8).children
    assert "null" in run(paired=False, output_path=place, num_draws=8, null=True).children
    assert cli.run(["check", str(path)]) == 0
    capsys.readouterr()
    (path / "null" / "trace" / "loss" / "c" / "0" / "0" / "0" / "0" / "0").unlink()
    assert cli.run(["check", str(path)]) == 1
    assert "null: trace/loss" in capsys.readouterr().out


def test_a_run_can_get_one_later(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    run(output_path=path)
    same_numbers(run(output_path=path, null=True).load(), run(null=True))


def test_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="already"):
        run(null=True, n_beta=0.0)
    with pytest.raises(InvalidInputError, match="keep chains near w0"):
        run(null=True, localization=0.0)
    store = MemoryStore()
    with pytest.raises(InvalidInputError, match="pass a path or a URL"):
        run(null=True, output_path=store)


def test_what_it_would_cost() -> None:
    both, one = run(null=True, dry_run=True), run(dry_run=True)
    assert isinstance(both, DryRun)
    assert isinstance(one, DryRun)
    assert both.gradients == 2 * one.gradients
    assert {f"null/{path}" for path in one.arrays} < set(both.arrays)
