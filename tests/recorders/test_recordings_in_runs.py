"""What recorders gave is stored, resumed, extended, spread over processes and checked as losses are."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from zarr.storage import LocalStore

import devinterp
from devinterp import Analysis, Recorder, Recording, Snapshot
from devinterp.errors import DivergenceWarning, InvalidInputError, MissingDataError, StoreMismatchError
from devinterp.runs import compute_each
from devinterp.sampling.chains.checkpointing import TimeBudget
from devinterp.store.integrity import check
from support.many_restrictions import HEADS
from support.small_models import Noisy, deep, ids, make, same_numbers, snapshot
from support.small_models import run as run_in_memory
from support.small_runs import Ended, counting, crash, run

RECORDERS: dict[str, Any] = {
    "logits": {"top_k": 2, "num_sequences": 2},
    "sketch": {"size": 4},
    "weight_norms": None,
    "full_loss": None,
}
SHORT: dict[str, Any] = {"recorders": RECORDERS, "save_metrics": False, "num_draws": 4}


def one_value(value: Any, name: str = "mine") -> Recorder:
    """Return a recorder of one number, a function of a snapshot."""
    return Recorder(name, lambda run: Recording(lambda shot: {"value": value(shot)}, dims={"value": ()}))


@pytest.mark.parametrize("chains", ["sequential", "vectorized"])
def test_a_run_that_is_interrupted_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chains: str
) -> None:
    usual = TimeBudget.is_due
    monkeypatch.setattr(TimeBudget, "is_due", lambda self, *, last: usual(self, last=True) if last else True)
    path, settings = tmp_path / "run.zarr", {**SHORT, "chains": chains, "weight_restrictions": None, "num_draws": 3}
    for after in (6, 13) if chains == "sequential" else (4, 7):
        with pytest.raises(Ended):
            run(path, counting(after, crash), **settings)
    same_numbers(run(path, **settings).load(), run(**settings))
    assert list(check(LocalStore(path))) == []


def test_all_that_can_be_added_at_once(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    small = {"recorders": {"sketch": {"size": 4}}, "num_chains": 1, "num_draws": 1, "save_metrics": False}
    run(path, **small, weight_restrictions={"full": None})
    larger = {**SHORT, "recorders": {"sketch": {"size": 4}, "full_loss": None}, "num_draws": 2}
    same_numbers(run(path, **larger).load(), run(**larger, paired=False))
    assert list(devinterp.open(path)["recordings"].attrs["names"]) == ["sketch", "full_loss"]


@pytest.mark.slow  # workers import torch
def test_in_worker_processes() -> None:
    same_numbers(run(workers=2, **SHORT), run(**SHORT))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore:.*:RuntimeWarning")
def test_on_a_cluster(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        tree = run(tmp_path / "run.zarr", client=client, **SHORT).load()
    same_numbers(tree, run(**SHORT))


def test_several_restrictions_side_by_side() -> None:
    model = deep()
    before = snapshot(model)
    heads = {name: HEADS[name] for name in ("l1h0", "l1h1")}
    settings = {"weight_restrictions": heads, "recorders": ["sketch", "weight_norms", "full_loss"], "num_draws": 2}
    together, alone = (run_in_memory(model, chains=chains, **settings) for chains in ("vectorized", "sequential"))
    assert snapshot(model) == before
    for group in ("sketch", "weight_norms", "full_loss"):
        for name, expected in alone[f"recordings/{group}"].data_vars.items():
            got, scale = together[f"recordings/{group}/{name}"], float(np.abs(expected).max())
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4 * scale, err_msg=f"{group}/{name}")
    distance = together["recordings/weight_norms/distance"]
    assert (distance.sel(restriction="l1h0", module="layers.1.mix") > 0).all()
    assert (distance.sel(restriction="l1h0", module="layers.2.mix") == 0).all()


def test_a_recorder_leaves_no_trace_in_a_model_in_train_mode() -> None:
    """With dropout and batch statistics, which a forward pass of the recorder changes."""
    model = make(Noisy).train()
    plain = run_in_memory(model)
    recorded = run_in_memory(model, recorders=["full_loss"])
    np.testing.assert_array_equal(recorded["trace/loss"], plain["trace/loss"])
    np.testing.assert_array_equal(recorded["trace/init_loss"], plain["trace/init_loss"])


def test_gradients_that_a_recorder_takes_do_not_move_the_chain() -> None:
    def gradient(shot: Snapshot) -> torch.Tensor:
        with torch.enable_grad():
            shot.model(ids()[:2]).square().sum().backward()
        return shot.model.head.bias.grad.norm()

    recorded = run_in_memory(recorders=one_value(gradient))
    np.testing.assert_array_equal(recorded["trace/loss"], run_in_memory()["trace/loss"])
    assert (recorded["recordings/mine/value"] > 0).all()


def test_displacements_are_finer_than_weights_in_half_precision() -> None:
    """A step far below the spacing of bfloat16 moves what the chain keeps, and the sketch sees it."""
    tree = run_in_memory(make(dtype=torch.bfloat16), recorders=["sketch"], lr=1e-9)
    moved = np.abs(tree["recordings/sketch/sketch"])
    assert (moved.max("bucket") > 0).all()
    assert moved.max() < 1e-2


def test_with_moments_a_null_run_and_noise_at_the_start() -> None:
    settings = {"record": "moments", "null": True, "init_noise": 0.01, "recorders": ["sketch"], "num_draws": 2}
    tree = run_in_memory(**settings)  # and no observables
    for run_of in (tree, tree["null"]):
        assert np.isfinite(run_of["recordings/sketch/sketch"]).all()
        assert (run_of["recordings/sketch/init_sketch"] == 0).all()


def test_whole_numbers_and_labels(tmp_path: Path) -> None:
    def build(run: Any, *, size: int = 2) -> Recording:
        """Record the tokens that follow."""

        def record(shot: Snapshot) -> Any:
            return {"best": shot.model(ids()[:3]).argmax(-1), "is_large": shot.model.head.bias > 0}

        labels = {
            "token": (("token",), np.arange(9)),
            "word": (("vocabulary",), np.array(list("abcdefghijklmnopqrstuvw"))),
        }
        return Recording(
            record, {"best": ("sequence", "token"), "is_large": ("vocabulary",)}, labels, {"best": {"of": "ids"}}
        )

    tree = run(tmp_path / "run.zarr", recorders={"best": Recorder("tokens", build)}, num_draws=2, save_metrics=False)
    group = tree["recordings/best"]
    assert group["best"].dtype == group["is_large"].dtype == np.int64
    assert group["best"].attrs == {"of": "ids"}
    assert group["word"].values.tolist() == list("abcdefghijklmnopqrstuvw")
    assert group.attrs == {"recorder": "tokens", "settings": '{"size": 2}'}
    assert list(check(LocalStore(tmp_path / "run.zarr"))) == []


@pytest.mark.parametrize("chains", ["sequential", "vectorized"])
def test_a_chain_whose_recording_is_not_finite_has_diverged(tmp_path: Path, chains: str) -> None:
    """And the recorder is not asked about it again, while the others go on."""
    bias = make().head.bias[0].item()

    def value(shot: Snapshot) -> torch.Tensor:
        moved = shot.model.head.bias[0] - bias
        return torch.where(moved > 0, torch.inf, moved)

    settings = {"recorders": one_value(value), "num_chains": 6, "num_draws": 1, "chains": chains, "localization": 0.0}
    with pytest.warns(DivergenceWarning, match=r"step 0, draw 0: `value` of recorder 'mine' is not finite"):
        tree = run_in_memory(output_path=tmp_path / "run.zarr", **settings)
    states, values = tree["status/state"].values[0], tree["recordings/mine/value"].values[0, :, 0]
    assert set(states) == {"diverged", "finished"}
    np.testing.assert_array_equal(np.isnan(values), states == "diverged")
    assert list(check(LocalStore(tmp_path / "run.zarr"))) == []


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (lambda shot: {"value": torch.tensor(torch.inf)}, "is not finite at the starting weights"),
        (lambda shot: {"other": torch.zeros(())}, r"must give a dict of tensors \['value'\]; got \['other'\]"),
        (lambda shot: {"value": 3.0}, "must be a tensor of real or whole numbers; got float"),
        (lambda shot: {"value": torch.zeros(2)}, r"has shape \(2,\) and the dims \(\)"),
        (lambda shot: 1 / 0, "recorder 'mine' failed: ZeroDivisionError"),
    ],
)
def test_a_recorder_that_fails_is_refused_before_anything_is_sampled(record: Any, message: str, tmp_path: Path) -> None:
    broken = Recorder("mine", lambda run: Recording(record, dims={"value": ()}))
    with pytest.raises(InvalidInputError, match=message):
        run_in_memory(recorders=broken, output_path=tmp_path / "run.zarr")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("dims", [("draw",), ("value",), ("x", "x")])
def test_dims_that_cannot_be(dims: tuple[str, ...]) -> None:
    shape = (2,) * len(dims)
    broken = Recorder("mine", lambda run: Recording(lambda shot: {"value": torch.zeros(shape)}, dims={"value": dims}))
    with pytest.raises(InvalidInputError, match="recorder 'mine'"):
        run_in_memory(recorders=broken)


def test_a_recorder_gives_the_same_shape_every_time() -> None:
    calls: list[int] = []

    def record(shot: Snapshot) -> dict[str, torch.Tensor]:
        calls.append(1)
        return {"value": torch.zeros(1 + len(calls) // 3)}

    with pytest.raises(InvalidInputError, match=r"has shape \(2,\) and dtype float32 at a draw, and had \(1,\)"):
        run_in_memory(recorders=Recorder("mine", lambda run: Recording(record, dims={"value": ("x",)})))


@pytest.mark.parametrize("chains", ["sequential", "vectorized"])
def test_the_model_is_as_before_when_a_recorder_fails_on_the_way(chains: str) -> None:
    model, calls = make(), list[int]()

    def value(shot: Snapshot) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("no more")
        return torch.zeros(())

    before = snapshot(model)
    with pytest.raises(InvalidInputError, match="recorder 'mine' failed: RuntimeError: no more"):
        run_in_memory(model, recorders=one_value(value), chains=chains)
    assert snapshot(model) == before


CHANGES: dict[str, Any] = {
    "settings": {"sketch": {"size": 5}},
    "seed": {"sketch": {"size": 4, "seed": 1}},
    "fewer": None,
    "another under the name": {"sketch": {"recorder": "weight_norms"}},
}


def test_another_recorder_is_another_run(tmp_path: Path) -> None:
    settings = {"num_draws": 1, "num_chains": 1, "output_path": tmp_path / "run.zarr"}
    run_in_memory(recorders={"sketch": {"size": 4}}, **settings)
    for recorders in CHANGES.values():
        with pytest.raises(StoreMismatchError, match="recorders"):
            run_in_memory(recorders=recorders, **settings)


def test_other_data_of_a_recorder_are_another_run(tmp_path: Path) -> None:
    settings = {"num_draws": 1, "num_chains": 1, "output_path": tmp_path / "run.zarr"}
    run_in_memory(recorders={"full_loss": {"dataset": ids()[:9]}}, **settings)
    run_in_memory(recorders={"full_loss": {"dataset": ids()[:9].clone()}}, **settings)
    with pytest.raises(StoreMismatchError, match=r"recorders\.full_loss"):
        run_in_memory(recorders={"full_loss": {"dataset": ids()[1:10]}}, **settings)


def test_damage_is_found_and_sampled_again(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    whole = run_in_memory(output_path=path, recorders=["sketch", "weight_norms"]).load()
    (path / "recordings/sketch/sketch/c/0/1/0/0").unlink()
    (path / "recordings/weight_norms/init_norm/c/0").write_bytes(b"not a chunk")
    assert {(each.path, each.chain) for each in check(LocalStore(path))} == {
        ("recordings/sketch/sketch", (0, 1)),
        ("recordings/weight_norms/init_norm", None),
    }
    same_numbers(run_in_memory(output_path=path, recorders=["sketch", "weight_norms"], repair=True).load(), whole)
    assert list(check(LocalStore(path))) == []


def test_a_run_without_recorders_is_stored_as_before(tmp_path: Path) -> None:
    tree = run_in_memory(output_path=tmp_path / "run.zarr")
    assert "recorders" not in json.loads(tree.attrs["config"])
    assert "recorders" not in json.loads(tree.attrs["provenance"])["fingerprints"]
    assert not (tmp_path / "run.zarr" / "recordings").exists()


def test_the_dry_run_counts_the_bytes(tmp_path: Path) -> None:
    settings = {"recorders": {"logits": {"num_sequences": 8, "top_k": 20}}, "num_draws": 24}
    estimate = run_in_memory(dry_run=True, **settings)
    run_in_memory(output_path=tmp_path / "run.zarr", **settings)
    for name in ("logits", "init_logits", "vocabulary_id"):
        path = f"recordings/logits/{name}"
        stored = sum(f.stat().st_size for f in (tmp_path / "run.zarr" / path / "c").rglob("*") if f.is_file())
        assert estimate.arrays[path] == pytest.approx(stored, rel=0.1), path


def drift(tree: xr.DataTree) -> xr.Dataset:
    """Return the mean squared length of the sketch, for each chain."""
    sketch = tree["recordings/sketch/sketch"]
    return xr.Dataset({"drift": (sketch**2).sum("bucket").mean("draw")})


def test_an_analysis_may_require_what_is_recorded() -> None:
    analysis = Analysis("drift", drift, requires=("recordings/sketch/sketch",))
    tree = run_in_memory(recorders=["sketch"], weight_restrictions={"a": None, "b": "full"})
    devinterp.schema.check(tree, analysis.requires, needed_by="drift")
    whole = drift(tree)["drift"]
    assert whole.dims == ("restriction", "chain")
    # A part of a run has all its dims again.
    again = pickle.loads(pickle.dumps(tree))
    for part, chosen in (
        (tree.sel(chain=1), {"chain": 1}),
        (tree.isel(chain=1, restriction=0), {"chain": 1, "restriction": 0}),
        (again.sel(chain=[1]), {"chain": [1]}),
    ):
        got = compute_each(part, drift, name="drift")["drift"]
        np.testing.assert_allclose(np.squeeze(got), np.squeeze(whole.isel(chosen)))
    with pytest.raises(MissingDataError, match=r"sample with `recorders=\['sketch'\]`"):
        devinterp.schema.check(run_in_memory(), analysis.requires, needed_by="drift")
