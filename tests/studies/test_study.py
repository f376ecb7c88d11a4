"""A study is its runs, each complete, in one store that resumes and grows; results are joined along what varies."""

from __future__ import annotations

import gc
import json
import os
import signal
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import devinterp
from devinterp import cli, study
from devinterp.errors import (
    BrokenChainsError,
    DivergenceWarning,
    FailedRunsWarning,
    InvalidInputError,
    StoreError,
    StoreMismatchError,
    StudyError,
)
from support.small_models import SHORT, TinyModel, ids, make, run, same_numbers, snapshot
from support.small_runs import Ended, in_child, wait

STEPS = (0, 8, 64)


def checkpoint(step: float) -> TinyModel:
    """Return the recorded model, moved further from zero at each step."""
    model = make()
    with torch.no_grad():
        model.mix.weight.mul_(1 + step / 100)
    return model


def models() -> dict[int, nn.Module]:
    return {step: checkpoint(step) for step in STEPS}


def make_study(models: Any, path: Any = None, **changes: Any) -> Any:
    over = changes.get("over") or {}
    rows = over if isinstance(over, list) else [over]
    varying = {name for row in rows for key in row for name in (key if isinstance(key, tuple) else (key,))}
    same = {name: value for name, value in {**SHORT, "num_draws": 3}.items() if name not in varying}
    data = changes.pop("dataset", ids())
    return study(models, data, output_path=path, **{**same, **changes})


def part(tree: xr.DataTree, name: str) -> xr.DataTree:
    """Return a run of a study as a tree of its own."""
    return xr.DataTree.from_dict({n.relative_to(tree[name]): n.to_dataset() for n in tree[name].subtree}).load()


def alone(step: float, **changes: Any) -> xr.DataTree:
    return run(checkpoint(step), **{"num_draws": 3, **changes})


@pytest.mark.parametrize("stored", [pytest.param(False, marks=pytest.mark.heavy), True])
def test_each_run_is_the_run_by_itself(tmp_path: Path, stored: bool) -> None:
    before, given = torch.get_rng_state(), models()
    snapshots = {step: snapshot(model) for step, model in given.items()}
    tree = make_study(given, tmp_path / "study" if stored else None, over={"lr": [1e-3, 1e-4]})
    assert list(tree.children) == [f"checkpoint={step},lr={lr}" for step in STEPS for lr in (0.001, 0.0001)]
    for step in STEPS:
        for lr in (1e-3, 1e-4):
            same_numbers(part(tree, f"checkpoint={step},lr={lr}"), alone(step, lr=lr))
    llc = tree.slt.llc()
    assert llc["llc_mean"].dims == ("checkpoint", "lr")
    assert llc["checkpoint"].values.tolist() == list(STEPS)
    assert llc["lr"].values.tolist() == [1e-4, 1e-3]  # numbers increase
    for step in STEPS:
        one = alone(step, lr=1e-3).slt.llc()
        np.testing.assert_array_equal(llc["loss_trace"].sel(checkpoint=step, lr=1e-3), one["loss_trace"])
        assert llc["verdict"].sel(checkpoint=step, lr=1e-3) == one.attrs["verdict"]
    # A part of the tree is joined along the same dims, and a run by itself has none of them.
    assert tree["checkpoint=8,lr=0.001"].slt.llc()["llc_mean"].dims == ()
    assert torch.equal(torch.get_rng_state(), before)
    assert {step: snapshot(model) for step, model in given.items()} == snapshots


def test_the_noise_is_the_same_unless_asked_otherwise() -> None:
    tree = make_study(models())
    rows = [tree[f"checkpoint={step}/trace/sequence_id"] for step in STEPS]
    assert all((each == rows[0]).all() for each in rows)
    tree = make_study(models(), same_noise=False)
    rows = [tree[f"checkpoint={step}/trace/sequence_id"] for step in STEPS]
    assert all((each != rows[0]).any() for each in rows[1:])
    # The seed of a run depends on its labels alone, so that a study can grow.
    one = make_study({8: checkpoint(8)}, same_noise=False)
    same_numbers(part(one, "checkpoint=8"), part(tree, "checkpoint=8"))


def test_what_varies_together() -> None:
    over = {("lr", "n_beta"): [(1e-3, 20.0), (1e-4, 10.0)], "seed": [1, 2]}
    llc = make_study(make(), over=over).slt.llc()
    assert llc["llc_mean"].dims == ("lr", "seed")
    assert llc["n_beta"].dims == ("lr",)
    assert llc["n_beta"].sel(lr=1e-3) == 20.0
    rows = [{"lr": 1e-3, "n_beta": 20.0}, {"lr": 1e-3, "n_beta": 10.0}, {"lr": 1e-4, "n_beta": 10.0}]
    llc = make_study(make(), over=rows).slt.llc()
    assert llc["llc_mean"].dims == ("row",)
    assert llc["lr"].values.tolist() == [1e-3, 1e-3, 1e-4]


def test_anything_may_vary() -> None:
    over = {
        "kernel": {"sgld": "sgld", "nose": ("sgnht", {"diffusion": 0.05})},
        "restrictions": {"mix": {"mix.weight": torch.ones(6, 6, dtype=torch.bool)}, "all": None},
        "dataset": {"train": ids(), "half": ids()[:12]},
    }
    tree = make_study(make(), dataset=None, over=over)
    traces = tree.slt.llc()["loss_trace"]
    assert traces.dims[:3] == ("kernel", "restrictions", "dataset")
    same_numbers(
        part(tree, "kernel=sgld,restrictions=mix,dataset=train"),
        run(num_draws=3, param_masks=over["restrictions"]["mix"]),
    )


def test_labels_of_text_around_numbers_are_numbers() -> None:
    given = {f"step{step}": model for step, model in models().items()}
    tree = make_study(given)
    assert list(tree.children) == [f"checkpoint={step}" for step in STEPS]
    assert tree.slt.llc()["checkpoint"].dtype.kind == "i"
    words = make_study({"first": make(), "second": make()}).slt.llc()
    assert words["checkpoint"].values.tolist() == ["first", "second"]


FAIL: dict[int, BaseException] = {}  # outside of the function, which is the same whatever fails


class Loads:
    """A function that loads models, and what it was asked for and in which thread."""

    def __init__(self, fail: dict[int, BaseException] | None = None) -> None:
        self.asked: list[tuple[int, str]] = []
        FAIL.clear()
        FAIL.update(fail or {})

    def __call__(self, checkpoint: int) -> nn.Module:
        self.asked.append((checkpoint, threading.current_thread().name))
        if checkpoint in FAIL:
            raise FAIL[checkpoint]
        return _checkpoint(checkpoint)


_checkpoint = checkpoint
OVER = {"checkpoint": list(STEPS)}


def test_the_next_model_is_loaded_while_one_is_sampled() -> None:
    load = Loads()
    tree = make_study(load, over={**OVER, "seed": [1, 2]})
    assert [step for step, _ in load.asked] == list(STEPS)  # each once
    assert [name.startswith("devinterp-load") for _, name in load.asked] == [False, True, True]
    same_numbers(part(tree, "checkpoint=64,seed=2"), alone(64, init_seed=2))


def test_a_function_may_load_every_checkpoint_into_one_module_and_draw_random_numbers() -> None:
    shared = make()

    def load(checkpoint: int) -> nn.Module:
        # Depends on the state of torch's global generator, and changes the module that is sampled.
        with torch.no_grad():
            shared.load_state_dict(_checkpoint(checkpoint).state_dict())
            shared.head.bias.add_(0.1 * torch.randn(()))
        return shared

    def load_apart(checkpoint: int) -> nn.Module:
        model = _checkpoint(checkpoint)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            model.head.bias.add_(0.1 * torch.randn(()))
        return model

    tree = make_study(load, over=OVER)
    for step in STEPS:
        same_numbers(part(tree, f"checkpoint={step}"), run(load_apart(step), num_draws=3))


@pytest.mark.heavy
def test_one_model_is_in_memory_and_the_next() -> None:
    alive: list[weakref.ref[nn.Module]] = []
    most = 0

    def load(checkpoint: int) -> nn.Module:
        nonlocal most
        model = _checkpoint(checkpoint)
        alive.append(weakref.ref(model))
        gc.collect()
        most = max(most, sum(each() is not None for each in alive))
        return model

    make_study(load, over={"checkpoint": list(range(4))})
    assert most == 2


@pytest.mark.heavy
def test_a_killed_study_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "study"
    load = Loads({64: KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        make_study(load, path, over={**OVER, "seed": [1, 2]})
    # What is there can be opened and read.
    partial = devinterp.open(path)
    assert set(partial.children) >= {"checkpoint=0,seed=1", "checkpoint=0,seed=2"}
    load = Loads()
    tree = make_study(load, path, over={**OVER, "seed": [1, 2]})
    assert {step for step, _ in load.asked} <= {8, 64}
    same_numbers(tree.load(), make_study(Loads(), over={**OVER, "seed": [1, 2]}))
    load = Loads()
    make_study(load, path, over={**OVER, "seed": [1, 2]})
    assert load.asked == []  # nothing is loaded where nothing is missing


@pytest.mark.heavy
def test_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "study"
    make_study(Loads(), path, over={"checkpoint": [0, 64], "seed": [1]})
    load = Loads()
    tree = make_study(load, path, over={"checkpoint": [0, 8, 64], "seed": [1, 2]}, num_draws=5)
    expected = make_study(Loads(), over={"checkpoint": [0, 8, 64], "seed": [1, 2]}, num_draws=5)
    same_numbers(tree.load(), expected)
    # What is not asked for stays.
    tree = make_study(Loads(), path, over={"checkpoint": [8], "seed": [2]}, num_draws=5)
    same_numbers(tree.load(), expected)
    with pytest.raises(StoreMismatchError, match="over checkpoint, seed, and this one is over checkpoint"):
        make_study(Loads(), path, over=OVER)
    with pytest.raises(StoreMismatchError, match="lr: the store has"):
        make_study(Loads(), path, over={"checkpoint": [8], "seed": [2]}, num_draws=5, lr=2e-3)
    other = {8: checkpoint(9)}
    make_study(models(), tmp_path / "other")
    with pytest.raises(StoreMismatchError, match="weights: the store has"):
        make_study(other, tmp_path / "other")


def test_a_run_that_fails_is_recorded_and_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "study"
    load = Loads({8: FileNotFoundError("no such checkpoint")})
    with pytest.warns(FailedRunsWarning, match=r"1 of 3 runs failed.*\n  checkpoint=8: FileNotFoundError: no such"):
        tree = make_study(load, path, over=OVER)
    assert list(tree.children) == ["checkpoint=0", "checkpoint=64"]
    assert json.loads(tree.attrs["study"])["failed"] == {"checkpoint=8": "FileNotFoundError: no such checkpoint"}
    assert tree.slt.llc()["checkpoint"].values.tolist() == [0, 64]
    tree = make_study(Loads(), path, over=OVER)
    same_numbers(tree.load(), make_study(Loads(), over=OVER))
    assert json.loads(tree.attrs["study"])["failed"] == {}
    # In the middle of a grid the missing run is NaN.
    with pytest.warns(FailedRunsWarning):
        tree = make_study(_fails_at_8_2, over={**OVER, "number": [1, 2]})
    means = tree.slt.llc()["llc_mean"]
    assert means.isnull().values.tolist() == [[False, False], [False, True], [False, False]]
    everything = {step: ValueError("no") for step in STEPS}
    with pytest.raises(StudyError, match="all 3 runs of the study failed; the first, 'checkpoint=0': ValueError: no"):
        make_study(Loads(everything), over=OVER)


def _fails_at_8_2(checkpoint: int, number: int) -> nn.Module:
    if (checkpoint, number) == (8, 2):
        raise RuntimeError("gone")
    return _checkpoint(checkpoint)


@pytest.mark.parametrize("stored", [False, True])
def test_a_run_that_diverges_is_recorded(tmp_path: Path, stored: bool) -> None:
    over = {"n_beta": [20.0, 1e30]}
    with pytest.warns(DivergenceWarning, match=r"chains of 1 of 2 runs diverged.*\n  n_beta=1e\+30: 2 of 2 chains"):
        tree = make_study(make(), tmp_path / "study" if stored else None, over=over, lr=1.0)
    with pytest.raises(BrokenChainsError, match=r"run 'n_beta=1e\+30'"):
        tree.slt.llc()
    llc = tree.slt.llc(chains="finished")
    assert llc["llc_mean"].isnull().values.tolist() == [False, True]
    assert llc.attrs["runs_left_out"] == ["n_beta=1e+30"]


@pytest.mark.heavy
def test_runs_in_other_processes(tmp_path: Path) -> None:
    weights = {step: checkpoint(step).state_dict() for step in STEPS}
    tree = make_study(weights, tmp_path / "study", architecture=make(), workers=2)
    same_numbers(tree.load(), make_study(weights, architecture=make()))


@pytest.mark.slow
def test_what_goes_wrong_in_other_processes(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"architecture": make(), "over": {"seed": [1, 2]}}
    # Fewer runs than workers are spread by their chains.
    weights: dict[int, Any] = {step: checkpoint(step).state_dict() for step in STEPS}
    tree = make_study(weights, tmp_path / "study", workers=7, **settings)
    same_numbers(tree.load(), make_study(weights, **settings))
    bad = {**weights, 66: {"nothing": torch.zeros(1)}}
    with pytest.warns(FailedRunsWarning, match=r"2 of 8 runs failed.*\n  checkpoint=66,seed=1: InvalidInputError"):
        make_study(bad, tmp_path / "study", workers=2, **settings)
    over = {"n_beta": [20.0, 1e30]}
    with pytest.warns(DivergenceWarning, match=r"chains of 1 of 2 runs diverged.*\n  n_beta=1e\+30: 2 of 2 chains"):
        make_study(make(), tmp_path / "other", over=over, lr=1.0, workers=2)


@pytest.mark.slow
def test_a_study_on_a_cluster(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    weights = {step: checkpoint(step).state_dict() for step in STEPS}
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        tree = make_study(weights, tmp_path / "study", architecture=make(), client=client)
    same_numbers(tree.load(), make_study(weights, architecture=make()))


@pytest.mark.slow
def test_killed_again_and_again(tmp_path: Path) -> None:
    path, rng = tmp_path / "study", np.random.default_rng(0)
    over = {**OVER, "seed": [1, 2]}
    settings: dict[str, Any] = {"over": over, "num_draws": 60, "checkpoint_share": 1.0}
    ended = []
    for _ in range(5):
        pid = in_child(lambda: make_study(Loads(), path, **settings))
        timer = threading.Timer(float(rng.uniform(0.2, 1.5)), os.kill, (pid, signal.SIGKILL))
        timer.start()
        ended.append(wait(pid))
        timer.cancel()
    assert -signal.SIGKILL in ended
    tree = make_study(Loads(), path, **settings)
    same_numbers(tree.load(), make_study(Loads(), **settings))


def test_an_end_that_was_asked_for_ends_the_study(tmp_path: Path) -> None:
    class Ends(TinyModel):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            raise Ended

    with pytest.warns(FailedRunsWarning, match="Ended"):
        make_study({0: make(), 1: make(Ends)}, tmp_path / "study")


def test_the_command_line_reads_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "study"
    make_study(models(), path)
    assert cli.run(["check", str(path)]) == 0
    assert cli.run(["info", str(path)]) == 0
    assert "checkpoint=64" in capsys.readouterr().out
    assert cli.run(["llc", str(path)]) == 0
    (path / "checkpoint=8" / "trace" / "loss" / "c" / "0" / "0" / "0" / "0" / "0").unlink()
    assert cli.run(["check", str(path)]) == 1
    assert "checkpoint=8: " in capsys.readouterr().out
    same_numbers(make_study(models(), path, repair=True).load(), make_study(models()))


@pytest.mark.heavy
def test_xarray_alone_opens_it(tmp_path: Path) -> None:
    make_study(models(), tmp_path / "study", null=True)
    tree = xr.open_datatree(tmp_path / "study", engine="zarr")
    assert set(tree.children) == {"checkpoint=0", "checkpoint=64", "checkpoint=8"}
    assert "null" in tree["checkpoint=8"].children
    xr.testing.assert_equal(tree.slt.llc(), make_study(models(), null=True).slt.llc())


def test_what_cannot_be(tmp_path: Path) -> None:
    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(InvalidInputError, match=match):
            make_study(changes.pop("models", make()), tmp_path / "study", **changes)
        assert not (tmp_path / "study").exists()

    refused("'learning_rate' is neither an argument of `sample` nor", over={"learning_rate": [1]})
    refused("`lr` is given once and varies", over={"lr": [1e-3]}, lr=1e-3)
    refused(r"`lr` \(=-1.0\) must be positive.*in the run 'lr=-1.0'", over={"lr": [1e-3, -1.0]})
    refused("'checkpoint' varies twice", models=models(), over=OVER)
    refused("labels of 'seed' must be different", over={"seed": [1, 1]})
    refused("labels of 'seed' must be all numbers, or all words", over={"seed": [1, "a"]})
    refused("'chain' cannot be the name of what varies", over={"chain": [1]})
    refused("a value of 'dataset' is a Tensor, which is no label", over={"dataset": [ids()]}, dataset=None)
    refused("takes 'step', which does not vary", models=lambda step: make())
    refused("pass the model they belong to as `architecture=`", models={0: make().state_dict()})
    refused("`models` must be a model", models=3)
    refused("no argument 'burnin'", burnin=3)
    refused("rows must all name the same settings", over=[{"lr": 1e-3}, {"n_beta": 1.0}])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    with pytest.raises(StoreError, match="holds no study"):
        make_study(make(), tmp_path / "full")
