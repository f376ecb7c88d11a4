"""Stores of unfinished runs that an earlier version wrote: they open, go on from what it saved, and can be added to.

The version is that before modules were moved into rooms. Each run is one of `small_runs.run` that was interrupted:
``sequential`` in the first chain of its second restriction, ``moments`` in both chains of its first. To keep a store of a later
version, interrupt such a run and pack what is in its directory into ``tests/data/unfinished/NAME.zarr.zip``.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from zarr.storage import LocalStore

import devinterp
from devinterp.errors import BrokenChainsError, StoreMismatchError
from devinterp.store import keys as raw
from support.small_models import ids, same_numbers
from support.small_runs import RESTRICTIONS, counting, files, run

UNFINISHED = Path(__file__).parents[1] / "data" / "unfinished"
NUM_STEPS = 15
#: The arguments of each run, its states and steps, where its checkpoint is, and which gradients are missing, by those of a
#: restriction from its start: to the steps these add what it takes to choose how its chains are run.
STORES: dict[str, dict[str, Any]] = {
    "sequential": {
        "settings": {"sampling_method": "rmsprop_sgld"},
        "states": [["finished", "finished"], ["interrupted", "pending"]],
        "steps": [[15, 15], [8, 0]],
        "checkpoint": "resume/r1-c0/slot0",
        "gradients": lambda saved, whole: whole - saved,
    },
    "moments": {
        "settings": {"record": "moments", "chains": "vectorized", "match_sampling_input_ids_across_chains": False},
        "states": [["interrupted", "interrupted"], ["pending", "pending"]],
        "steps": [[10, 10], [0, 0]],
        "checkpoint": "resume/r0-c0-1/slot0",
        # A pass takes a step of both chains of the first restriction; the second was not begun.
        "gradients": lambda saved, whole: NUM_STEPS - saved + whole,
    },
}
MORE: dict[str, dict[str, Any]] = {
    "draws": {"num_draws": 9},
    "chains": {"num_chains": 3},
    "restriction": {"weight_restrictions": {**RESTRICTIONS, "bias": {"mix.bias": None}}},
    "observable": {"observables": {"watched": ids("train"), "code": ids("code")}},
    "losses at w0": {"paired": True},
}
#: What a new store holds by itself, and one that was made without does not.
NEWER = {"paired": False, "virial": False}


@pytest.fixture(params=STORES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def path(name: str, tmp_path: Path) -> Path:
    """The store, where a run can go on."""
    with zipfile.ZipFile(UNFINISHED / f"{name}.zarr.zip") as archive:
        archive.extractall(tmp_path / "run.zarr")
    return tmp_path / "run.zarr"


def same_as_uninterrupted(tree: xr.DataTree, stored: xr.DataTree, uninterrupted: xr.DataTree) -> None:
    """Assert that a run that went on is one without an interruption: bit by bit, if that holds for the stored part.

    On another kind of machine, or with other chains side by side, sums are rounded differently in both parts.
    """
    exact = []
    for path, values in losses_and_metrics(stored).items():
        known = ~np.isnan(values)
        same_part = uninterrupted[path].to_numpy()[tuple(map(slice, values.shape))]
        exact += [np.array_equal(same_part[known], values[known])] if known.any() else []
    assert len(exact) >= 10, "the losses at the start, the trace, and nine metrics"
    if all(exact):
        same_numbers(tree.load(), uninterrupted)
        return
    numbers, expected = losses_and_metrics(tree), losses_and_metrics(uninterrupted)
    assert numbers.keys() == expected.keys()
    for path, values in expected.items():
        largest = float(
            np.nanmax(np.abs(values))
        )  # comoments and dot products cancel: what remains is rounding of these
        np.testing.assert_allclose(numbers[path], values, rtol=1e-6, atol=1e-5 * largest, err_msg=path)
    np.testing.assert_array_equal(tree["status/state"], uninterrupted["status/state"])
    np.testing.assert_array_equal(tree["trace/sequence_id"], uninterrupted["trace/sequence_id"])


def losses_and_metrics(tree: xr.DataTree) -> dict[str, np.ndarray]:
    return {
        path: tree[path].to_numpy()
        for path in devinterp.schema.variable_paths(tree)
        if path.startswith(("trace/", "observables/", "metrics/")) and tree[path].dtype.kind == "f"
    }


def test_it_opens(name: str, path: Path) -> None:
    tree = devinterp.open(path)
    assert tree["status/state"].to_numpy().tolist() == STORES[name]["states"]
    assert tree["status/steps_done"].to_numpy().tolist() == STORES[name]["steps"]
    done = STORES[name]["steps"][0][0]
    assert np.isfinite(tree["metrics/distance"][0, :, :done]).all()
    with pytest.raises(BrokenChainsError, match=r"interrupted"):
        tree.slt.llc()
    same_numbers(devinterp.open(UNFINISHED / f"{name}.zarr.zip").load(), tree.load())


def test_it_goes_on_from_its_checkpoint(name: str, path: Path) -> None:
    stored = devinterp.open(path).load()
    saved = raw.get_attrs(LocalStore(path), STORES[name]["checkpoint"])["step"]
    assert 0 < saved < NUM_STEPS
    resumed, fresh = counting(), counting()
    tree = run(path, resumed, **STORES[name]["settings"])
    uninterrupted = run(None, fresh, **STORES[name]["settings"], **NEWER)
    of_a_restriction = fresh.taken // len(RESTRICTIONS)
    assert resumed.taken == STORES[name]["gradients"](saved, of_a_restriction)
    same_as_uninterrupted(tree, stored, uninterrupted)
    assert not (path / "resume").exists()
    assert not (path / "lock").exists()


@pytest.mark.heavy
@pytest.mark.parametrize("more", MORE)
def test_it_can_be_added_to(name: str, path: Path, more: str) -> None:
    stored = devinterp.open(path).load()
    settings = {**STORES[name]["settings"], **MORE[more]}
    tree = run(path, **settings)
    same_as_uninterrupted(tree, stored, run(**{**NEWER, **settings}))
    if more == "chains":  # those that were there run beside each other as before
        first = tree.isel(chain=slice(2), missing_dims="ignore")
        same_as_uninterrupted(first, stored, run(**STORES[name]["settings"], **NEWER))


def test_another_run_is_refused_and_changes_nothing(name: str, path: Path) -> None:
    before = files(path)
    with pytest.raises(StoreMismatchError, match=r"config\.lr: the store has 0\.001, this run 0\.002"):
        run(path, lr=2e-3, **STORES[name]["settings"])
    assert files(path) == before
