"""Whether the process that holds a store is still running."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest
from zarr.storage import MemoryStore

from devinterp.store import keys
from devinterp.store.lock import LOCK, Lock, holder
from devinterp.store.owner import HELD_TOKENS, STALE, Owner, start_time_of


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs until it is killed."""
    process = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def owner_of(pid: int, **changes: object) -> Owner:
    now = time.time()
    return replace(Owner("x", platform.node(), pid, start_time_of(pid), now, now), **changes)


def test_a_running_process_lives(child):
    assert not owner_of(child.pid).is_dead
    assert not owner_of(child.pid, heartbeat=0.0).is_dead, "however long ago its heartbeat: it may be suspended"
    assert not owner_of(child.pid, start_time=None).is_dead


def test_an_ended_process_is_dead(child):
    owner = owner_of(child.pid)
    child.kill()
    deadline = time.monotonic() + 20
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert owner.is_dead, "before its parent asks for it"
    child.wait()
    assert owner.is_dead
    assert replace(owner, start_time=None).is_dead
    assert start_time_of(child.pid) is None


@pytest.mark.parametrize("earlier", [3.0, 1e4, -3.0])
def test_a_process_with_the_number_of_a_dead_one_is_another(child, earlier):
    assert owner_of(child.pid, start_time=start_time_of(child.pid) - earlier).is_dead


def test_the_start_of_a_process_does_not_depend_on_when_the_clock_is_set(child, monkeypatch):
    if not psutil.LINUX:
        pytest.skip("only Linux counts from boot")
    start_time, boot_time = start_time_of(child.pid), psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: boot_time + 3600)
    assert psutil.Process(child.pid).create_time() == pytest.approx(boot_time + 3600 + start_time, abs=1)
    assert start_time_of(child.pid) == pytest.approx(start_time, abs=1)


def test_a_process_of_another_host_is_judged_by_its_heartbeat():
    for pid in (1, os.getpid(), 2**22 - 1):
        assert not owner_of(pid, host="elsewhere", start_time=5.0).is_dead
        assert owner_of(pid, host="elsewhere", heartbeat=time.time() - STALE - 1).is_dead


def test_this_process_lives_where_it_holds_the_lock(monkeypatch):
    owner = owner_of(os.getpid(), token="mine")
    assert owner.is_dead, "an earlier process with this number"
    HELD_TOKENS.add("mine")
    try:
        assert not owner.is_dead
    finally:
        HELD_TOKENS.discard("mine")


def test_numbers_that_no_process_has():
    assert owner_of(2**62).is_dead


def test_written_and_read():
    store = MemoryStore()
    with Lock(store, "there") as lock:
        lock.report(lambda: {"steps": 3})
        lock.beat()
        owner = holder(store)
        assert owner.progress == {"steps": 3}
        assert replace(owner, heartbeat=lock.owner.heartbeat, progress={}) == lock.owner


def record(**changes: object) -> dict[str, object]:
    """Return what the version wrote that compared clock ticks since boot."""
    now = time.time()
    plain = {"token": "x", "host": platform.node(), "since": now, "heartbeat": now, "progress": {}}
    return {**plain, **changes}


@pytest.mark.parametrize("started", [0, 1, 123_456])
def test_records_of_an_earlier_version(child, started):
    owner = Owner.from_record(record(pid=child.pid, started=started))
    assert owner.start_time is None
    assert not owner.is_dead, "its ticks are not compared with seconds"
    child.kill()
    child.wait()
    assert owner.is_dead


def test_an_earlier_version_takes_our_start_as_unknown():
    store = MemoryStore()
    with Lock(store, "there"):
        assert keys.get_attrs(store, LOCK)["started"] == 0


@pytest.mark.parametrize("change", [{"pid": "x"}, {"token": None, "since": []}, {"start_time": {}}, {"progress": 3}])
def test_damaged_records(change):
    assert Owner.from_record(record(**{"pid": 1, **change})) is None
    assert Owner.from_record({}) is None
