"""Chains in other processes: the same numbers, whatever dies."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import devinterp
from devinterp.errors import InvalidInputError
from devinterp.sampling.execution import local_processes as workers
from devinterp.sampling.execution.progress import Display, Update
from durability.test_killed import LONGER, kill_repeatedly
from support.small_models import deep, same_numbers
from support.small_runs import run


@pytest.mark.parametrize("chains", ["sequential", pytest.param("vectorized", marks=pytest.mark.slow)])
def test_two_workers(tmp_path: Path, chains: str) -> None:
    settings = {"chains": chains, "sampling_method": "rmsprop_sgld"}
    same_numbers(run(tmp_path / "run.zarr", workers=2, **settings).load(), run(**settings))
    assert not (tmp_path / "run.zarr" / "lock").exists()


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_threads_of_workers_that_wait_sleep(monkeypatch: pytest.MonkeyPatch, given: str | None) -> None:
    """Workers have more threads than there are cores: one that waits must not keep a core from the others."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    assert workers._environment(0)["OMP_WAIT_POLICY"] == (given or "PASSIVE")


@pytest.mark.heavy
def test_in_memory_and_with_what_a_notebook_defines() -> None:
    scale = 2.0
    loss = lambda model, batch: scale * model(batch)[:, :-1].square().mean(-1)  # noqa: E731
    small = {"weight_restrictions": None, "num_draws": 2}
    same_numbers(run(loss_fn=loss, workers=2, **small), run(loss_fn=loss, **small))


@pytest.mark.heavy
def test_a_killed_worker_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    spawn = workers._Worker

    class Watched(spawn):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            started.append(self.pid)

    monkeypatch.setattr(workers, "_Worker", Watched)
    path, settings = tmp_path / "run.zarr", {**LONGER, "num_draws": 150}
    with _killed_when_busy(path, started):
        tree = run(path, workers=2, **settings)
    assert len(started) == 4
    same_numbers(tree.load(), run(**settings))


@contextmanager
def _killed_when_busy(path: Path, started: list[int]) -> Iterator[None]:
    """Kill both first workers once some chain of the run inside has a saved state, which it has until its end."""
    busy = []

    def kill() -> None:
        end = time.monotonic() + 120
        while not (saved := list(path.glob("resume/*/slot*/values/c/*"))) and time.monotonic() < end:
            time.sleep(0.01)
        for pid in started[:2]:
            os.kill(pid, signal.SIGKILL)
        busy.append(bool(saved))

    killer = threading.Thread(target=kill)
    killer.start()
    yield
    killer.join()
    assert busy == [True]


def test_an_error_in_a_worker_is_raised_here(tmp_path: Path) -> None:
    calls = iter(range(10**9))

    def failing(model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        if next(calls) > 30:
            raise ArithmeticError("no more")
        return model(batch)[:, :-1].square().mean(-1)

    # The count travels with the function, and goes on in the worker.
    with pytest.raises(ArithmeticError, match="no more"):
        run(tmp_path / "run.zarr", loss_fn=failing, workers=1)
    states = set(np.asarray(devinterp.open(tmp_path / "run.zarr")["status/state"]).ravel())
    assert {"interrupted", "pending"} <= states <= {"interrupted", "pending", "finished"}


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["sgld", "rmsprop_sgld"])
def test_a_driver_killed_twenty_times_with_two_workers(tmp_path: Path, kernel: str) -> None:
    # Workers take a second or two to start, and sample for six: kills come before they sample, while, and seldom after.
    settings = {**LONGER, "sampling_method": kernel, "num_draws": 400}
    ended = kill_repeatedly(tmp_path / "run.zarr", {**settings, "workers": 2}, kills=20, longest=4.0)
    assert ended["code"] == 0, ended["errors"]
    assert ended["killed"] >= 15
    same_numbers(devinterp.open(tmp_path / "run.zarr").load(), run(**settings))


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore:.*:RuntimeWarning")
def test_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    path, settings = tmp_path / "run.zarr", {**LONGER, "num_draws": 100}
    shown: list[Update] = []
    monkeypatch.setattr(Display, "show", lambda self, update: shown.append(update))
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        first = client.run(os.getpid)
        with _killed_when_busy(path, list(first.values())[:1]):
            tree = run(path, client=client, **settings)
    # Dask adds entries of its own to what workers tell.
    ends = {(update.restriction, update.chain) for update in shown if update.step == tree["trace"].sizes["step"]}
    assert ends == set(np.ndindex(tree["status/state"].shape))
    same_numbers(tree.load(), run(**settings))


@pytest.mark.heavy
def test_what_a_worker_cannot_import_ends_the_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that cannot read its job was started anew for ever."""
    module = types.ModuleType("known_here_only")
    exec("def loss(model, batch): return model(batch)[:, :-1].square().mean(-1)", module.__dict__)
    monkeypatch.setitem(sys.modules, "known_here_only", module)
    with pytest.raises(workers.WorkerError, match=r"cannot read .* No module named 'known_here_only'.*can import"):
        run(tmp_path / "run.zarr", workers=2, loss_fn=module.loss, weight_restrictions=None, num_draws=2)


def test_workers_that_die_at_their_start_are_not_replaced_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawn = workers._Worker

    class Dying(spawn):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            os.kill(self.pid, signal.SIGKILL)

    monkeypatch.setattr(workers, "_Worker", Dying)
    with pytest.raises(workers.WorkerError, match=f"{workers.MAX_DEATHS + 1} processes died at their start"):
        run(tmp_path / "run.zarr", workers=2, weight_restrictions=None, num_draws=2)


def test_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="pass only one"):
        run(tmp_path / "run.zarr", workers=2, client=object())
    with pytest.raises(InvalidInputError, match=r"`workers` \(=-1\) must be a whole number of processes"):
        run(tmp_path / "run.zarr", workers=-1)
    with pytest.raises(InvalidInputError, match="`output_path` must be a path"):
        run(client=object())
    with pytest.raises(InvalidInputError, match="other processes cannot write into this one's memory"):
        run("memory://somewhere/run.zarr", workers=2)


def test_prefixes_do_not_depend_on_earlier_chains(tmp_path: Path) -> None:
    """With batches of its own, a chain alone equals the same chain after others."""
    last = {"last": {"layers.2.mix.weight": None}}
    settings = {"match_sampling_input_ids_across_chains": False, "weight_restrictions": last, "num_draws": 12}
    whole = run(None, deep(), **settings)
    assert json.loads(whole.attrs["provenance"])["paths"]["prefix/last"] == "2 layers reused"
    run(tmp_path / "run.zarr", deep(), num_chains=1, **settings)
    same_numbers(run(tmp_path / "run.zarr", deep(), **settings).load(), whole)


@pytest.mark.heavy
def test_what_a_worker_chose_is_in_the_provenance(tmp_path: Path) -> None:
    settings = {"weight_restrictions": {"head": {"head.bias": None}, "full": None}}
    here = run(tmp_path / "here.zarr", **settings)
    there = run(tmp_path / "there.zarr", workers=2, **settings)
    choices = [json.loads(tree.attrs["provenance"])["paths"] for tree in (here, there)]
    assert choices[0] == choices[1]
    assert set(choices[1]) == {"loss", "chains/head", "prefix/head", "chains/full", "prefix/full"}
