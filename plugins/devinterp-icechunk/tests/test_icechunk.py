"""Runs in Icechunk: the same numbers, committed with every flush, resumable, by one process or several."""

from __future__ import annotations

import pickle
from pathlib import Path

import icechunk
import numpy as np
import pytest
import torch
from torch import nn
from zarr.storage import LocalStore

import devinterp
from devinterp.errors import InvalidInputError, StoreError
from devinterp.slt.sampling import sample
from devinterp_icechunk import IcechunkRun

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Line(nn.Module):
    """A model of one weight, which may be told to fail."""

    def __init__(self, calls: int = 10**9) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.remaining = iter(range(calls))  # an iterator goes on although a run puts attributes back

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if next(self.remaining, None) is None:
            raise RuntimeError("the process is ended here")
        return x @ self.weight


def loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return (model(batch["x"]) - batch["y"]) ** 2


def run(where, calls: int = 10**9, **kwargs):
    rows = torch.Generator().manual_seed(0)
    data = {"x": torch.randn(32, 3, generator=rows), "y": torch.randn(32, generator=rows)}
    settings = {"lr": 1e-3, "n_beta": 10.0, "localization": 1.0, "batch_size": 8, "num_chains": 2, "num_draws": 20}
    settings |= {"observables": {"data": data}, "loss_fn": loss, "chains": "sequential", "progress": False, **kwargs}
    return sample(Line(calls), data, output_path=where, **settings)


def same(found, wanted) -> None:
    for name in ("trace", "observables/data", "status"):
        for key, array in wanted[name].to_dataset(inherit=False).data_vars.items():
            assert np.array_equal(np.asarray(array), np.asarray(found[name][key]), equal_nan=array.dtype.kind == "f"), (
                key
            )


def test_the_numbers_and_the_history(tmp_path: Path) -> None:
    store = IcechunkRun(tmp_path / "run")
    same(run(store), run(tmp_path / "plain.zarr"))
    messages = [commit.message for commit in store.history()]
    assert messages[0] == "run ended"
    assert messages.count("restriction 0, chain 0: finished") == 1
    assert "run prepared" in messages
    # Another process opens what is committed, lazily, and analyses it.
    tree = devinterp.open(IcechunkRun(tmp_path / "run"), eager_bytes=0)
    assert tree["trace/loss"].chunks is not None
    np.testing.assert_array_equal(tree.slt.llc()["llc_mean"], run(None).slt.llc()["llc_mean"])
    assert not list(devinterp.store.integrity.verify.check(store))


def test_the_past_is_readable(tmp_path: Path) -> None:
    store = IcechunkRun(tmp_path / "run")
    run(store)
    (commit,) = [c for c in store.history() if c.message == "restriction 0, chain 0: finished"]
    past = devinterp.open(store.at(commit.snapshot))
    assert [str(state) for state in np.asarray(past["status/state"]).ravel()] == ["finished", "pending"]
    with pytest.raises(ValueError, match="chains='finished'"):
        past.slt.llc()
    assert past.slt.llc(chains="finished").attrs["chains_used"] == [0]
    with pytest.raises(ValueError, match="Store is read-only"):
        run(store.at(commit.snapshot), num_draws=30)


def test_what_is_cut_off_goes_on(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended here"):
        # Within the second chain; the states of the first are gone by then.
        run(IcechunkRun(tmp_path / "run"), calls=150, checkpoint_share=0.9)
    begun = devinterp.open(IcechunkRun(tmp_path / "run"))
    assert "finished" in np.asarray(begun["status/state"]).ravel().tolist()
    same(run(IcechunkRun(tmp_path / "run")), run(tmp_path / "plain.zarr"))


def test_extended(tmp_path: Path) -> None:
    run(IcechunkRun(tmp_path / "run"), num_draws=10)
    same(run(IcechunkRun(tmp_path / "run")), run(tmp_path / "plain.zarr"))


@pytest.mark.heavy
def test_two_workers(tmp_path: Path) -> None:
    same(run(IcechunkRun(tmp_path / "run"), workers=2), run(tmp_path / "plain.zarr"))


def test_another_run_is_refused(tmp_path: Path) -> None:
    run(IcechunkRun(tmp_path / "run"))
    before = IcechunkRun(tmp_path / "run").history()
    with pytest.raises(StoreError, match=r"config\.lr: the store has 0\.001, this run 0\.002"):
        run(IcechunkRun(tmp_path / "run"), lr=2e-3)
    assert IcechunkRun(tmp_path / "run").history() == before


def test_two_writers_of_one_part(tmp_path: Path) -> None:
    run(IcechunkRun(tmp_path / "run"))
    first, second = IcechunkRun(tmp_path / "run"), IcechunkRun(tmp_path / "run")
    for store in (first, second):
        devinterp.store.keys.update_attrs(store, "", {"changed": "yes"})
    first.commit("first")
    with pytest.raises(StoreError, match="another process"):
        second.commit("second")


def test_a_copy_in_another_process_is_the_same_run(tmp_path: Path) -> None:
    store = IcechunkRun(tmp_path / "run")
    expected = run(store)
    again = pickle.loads(pickle.dumps(store))
    assert str(again) == str(store)
    same(devinterp.open(again), expected)


def test_storage_objects_and_branches(tmp_path: Path) -> None:
    storage = icechunk.in_memory_storage()
    with pytest.raises(InvalidInputError, match="aside"):
        IcechunkRun(storage)
    store = IcechunkRun(storage, aside=LocalStore(tmp_path / "aside"), branch="trial")
    run(store)
    assert store.history()[0].message == "run ended"
    assert "trial" in str(store)
