"""What ends a run early: signals, other processes, storage and devices that fail."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

import devinterp
from devinterp.errors import OutOfMemoryError, StoreError
from devinterp.store import keys, lock
from devinterp.store.owner import start_time_of
from devinterp.store.writing import thread
from support import signal_at_step as signalled
from support.small_models import same_numbers
from support.small_runs import counting, run


def states(path: Path) -> list[str]:
    return [str(state) for state in np.asarray(devinterp.open(path)["status/state"]).ravel()]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), pytest.param(signal.SIGINT, 130, marks=pytest.mark.heavy)]
)
def test_a_signal_saves_and_ends(tmp_path: Path, number: int, code: int) -> None:
    path = tmp_path / "run.zarr"
    found = subprocess.run(
        [sys.executable, signalled.__file__, str(path), str(int(number))],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert found.returncode == code, found.stderr
    assert "the same call goes on with" in found.stderr
    assert states(path) == ["finished", "interrupted", "pending", "pending"]
    done = int(np.asarray(devinterp.open(path)["status/steps_done"])[0, 1])
    assert done == 5
    assert not (path / "lock").exists()
    # The rest is taken from the very step it stopped at.
    model = counting()
    same_numbers(run(path, model, checkpoint_share=0.0).load(), run())
    assert model.taken == 15 - done + 2 * 15


def test_two_processes(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    held = lock.Lock(LocalStore(path), "there")
    with (
        held,
        pytest.raises(StoreError, match=rf"being written by process {os.getpid()} on .* \(last sign of life \d+ s"),
    ):
        run(path)
    run(path)


def owner(**changes: Any) -> dict[str, Any]:
    now = time.time()
    plain = {
        "token": "x",
        "host": "elsewhere",
        "pid": 1,
        "start_time": None,
        "since": now,
        "heartbeat": now,
        "progress": {},
    }
    return {"zarr_format": 3, "node_type": "group", "attributes": {**plain, **changes}}


def ended_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_living_owner_elsewhere_is_respected_and_a_silent_one_replaced(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    keys.put_json(LocalStore(path), "lock/zarr.json", owner())
    with pytest.raises(StoreError, match="process 1 on elsewhere"):
        run(path)
    keys.put_json(LocalStore(path), "lock/zarr.json", owner(heartbeat=time.time() - 1000))
    same_numbers(run(path).load(), run())


@pytest.mark.parametrize(
    "left",
    [
        lambda: owner(host=os.uname().nodename, pid=ended_process()),
        lambda: owner(host=os.uname().nodename, pid=os.getpid(), start_time=1.0),
        lambda: owner(host=os.uname().nodename, pid=os.getppid(), start_time=start_time_of(os.getppid()) - 1000),
        lambda: {"zarr_format": 3, "node_type": "group", "attributes": {"token": ["?"]}},
    ],
    ids=["ended", "our number", "number used again", "unreadable"],
)
def test_a_dead_owner_here_is_replaced_at_once(tmp_path: Path, left: Any) -> None:
    store = LocalStore(tmp_path)
    keys.put_json(store, "lock/zarr.json", left())
    with lock.Lock(store, "there") as taken:
        assert lock.holder(store).token == taken.owner.token
    assert lock.holder(store) is None


@pytest.mark.heavy
def test_of_several_that_race_one_wins(tmp_path: Path) -> None:
    path, signs = tmp_path / "store", tmp_path / "signs"
    store = LocalStore(path)
    # All wait for each other before they start, and the winner until the others have lost: no clock decides.
    script = """
import pathlib, sys, time
from zarr.storage import LocalStore
from devinterp.store.lock import Lock
from devinterp.errors import StoreError
signs = pathlib.Path(sys.argv[2])
def await_signs(kind, number):
    end = time.monotonic() + 120
    while len(list(signs.glob(kind + "*"))) < number and time.monotonic() < end:
        time.sleep(0.001)
(signs / ("ready" + sys.argv[3])).touch()
await_signs("ready", 4)
try:
    with Lock(LocalStore(sys.argv[1]), "there"):
        print("won")
        await_signs("lost", 3)
except StoreError as error:
    print(error)
    (signs / ("lost" + sys.argv[3])).touch()
"""
    for dead in (False, True):
        shutil.rmtree(signs, ignore_errors=True)
        signs.mkdir()
        if dead:
            keys.put_json(store, "lock/zarr.json", owner(host=os.uname().nodename, pid=ended_process()))
        racing = [
            subprocess.Popen(
                [sys.executable, "-c", script, str(path), str(signs), str(n)], stdout=subprocess.PIPE, text=True
            )
            for n in range(4)
        ]
        said = [process.communicate()[0].strip() for process in racing]
        assert said.count("won") == 1, said
        assert all(one == "won" or "process" in one for one in said), said


class Flaky(LocalStore):
    """A directory whose writing fails: for want of space after so many bytes, or for a while."""

    room = 10**9
    away = 0

    async def set(self, key: str, value: Buffer) -> None:
        if self.away > 0 and key.startswith("trace/loss/c/"):
            Flaky.away -= 1
            raise ConnectionError("the network is away")
        if key.startswith(("trace/", "observables/")):
            Flaky.room -= len(value)
        if Flaky.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        await super().set(key, value)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread, "BACKOFF", (0.01, 0.01, 0.01))


@pytest.mark.heavy
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = 10**9, []
    monkeypatch.setattr(Flaky, "room", before)
    run(Flaky(tmp_path / "whole.zarr"), counting(1, lambda: after.append(before - Flaky.room)))
    written = before - Flaky.room
    monkeypatch.setattr(Flaky, "room", (after[0] + written) // 2)
    store = Flaky(tmp_path / "run.zarr")
    with pytest.raises(StoreError, match=r"No space left on device.*What was written before is kept"):
        run(store)
    found = devinterp.open(tmp_path / "run.zarr").load()
    done = np.asarray(found["status/steps_done"])
    assert 0 < done.sum() < done.size * 15
    whole = run()
    for r, c in np.ndindex(done.shape):  # nothing that counted as done was lost
        rows = np.s_[r, c, : done[r, c]]
        np.testing.assert_array_equal(found["trace/loss"][rows], whole["trace/loss"][rows])
    monkeypatch.setattr(Flaky, "room", before)
    same_numbers(run(store).load(), whole)


def test_a_network_that_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flaky, "away", 3)
    same_numbers(run(Flaky(tmp_path / "run.zarr")).load(), run())
    assert Flaky.away == 0


def test_a_network_that_stays_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flaky, "away", 10**6)
    with pytest.raises(StoreError, match="ConnectionError: the network is away"):
        run(Flaky(tmp_path / "run.zarr"))
    monkeypatch.setattr(Flaky, "away", 0)
    same_numbers(run(Flaky(tmp_path / "run.zarr")).load(), run())


def until_the_heartbeat_sees_it(action: Callable[[], object]) -> None:
    """Repeat what is done to a lock: a heartbeat that was about to be written may come right after it."""
    end = time.monotonic() + 20
    while any(each.name == "devinterp-lock" for each in threading.enumerate()):
        assert time.monotonic() < end, "the heartbeat goes on"
        action()
        time.sleep(0.02)


def test_a_store_that_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "INTERVAL", 0.01)
    path = tmp_path / "run.zarr"

    def vanish() -> None:
        path.rename(tmp_path / "elsewhere")
        until_the_heartbeat_sees_it(lambda: shutil.rmtree(path, ignore_errors=True))

    with pytest.raises(StoreError, match=r"run.zarr was deleted, or emptied"):
        run(path, counting(20, vanish), num_draws=40, chains="sequential")


def test_a_store_that_was_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "INTERVAL", 0.01)
    path = tmp_path / "run.zarr"

    def take() -> None:
        until_the_heartbeat_sees_it(lambda: keys.put_json(LocalStore(path), "lock/zarr.json", owner()))

    with pytest.raises(StoreError, match="taken over by process 1 on elsewhere"):
        run(path, counting(20, take), num_draws=40)


def test_out_of_memory_says_what_fits(tmp_path: Path) -> None:
    class Large(type(counting())):  # type: ignore[misc]
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            if torch.is_grad_enabled() and len(ids) > 2:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate much")
            return super().forward(ids)

    model = counting()
    model.__class__ = Large
    with pytest.raises(OutOfMemoryError, match=r"batch_size=8 \(CUDA out of memory\): batch_size=2 fits .*steps=4"):
        run(tmp_path / "run.zarr", model, batch_size=8)


def test_the_heartbeat_tells_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "INTERVAL", 0.01)
    path, seen = tmp_path / "run.zarr", []

    def look() -> None:
        end = time.monotonic() + 20
        while (told := lock.holder(LocalStore(path))) is None or not told.progress.get("steps", {}).get("0/1"):
            assert time.monotonic() < end, told
            time.sleep(0.01)
        seen.append(told)

    run(path, counting(25, look))
    assert seen[0].pid == os.getpid()
    assert seen[0].progress["steps"]["0/1"] > 0
    assert seen[0].progress["rate"] > 0
