"""Any storage: memory, URLs and store objects behave as a directory does."""

from __future__ import annotations

import uuid
from typing import Any

import fsspec
import pytest
from zarr.storage import LocalStore, MemoryStore

import devinterp
from devinterp.errors import StoreError
from devinterp.store import lock
from devinterp.store.location import resolve
from support.small_models import same_numbers
from support.small_runs import Ended, counting, crash, run


@pytest.fixture(
    params=[
        "memory object",
        pytest.param("directory object", marks=pytest.mark.slow),
        pytest.param("memory url", marks=pytest.mark.heavy),
        pytest.param("file url", marks=pytest.mark.heavy),
    ]
)
def where(request: pytest.FixtureRequest, tmp_path: Any) -> Any:
    return {
        "memory object": MemoryStore(),
        "directory object": LocalStore(tmp_path / "run.zarr"),
        "memory url": f"memory://{uuid.uuid4().hex}/run.zarr",
        "file url": f"file://{tmp_path}/run.zarr",
    }[request.param]


def test_interrupted_and_grown_anywhere(where: Any) -> None:
    with pytest.raises(Ended):
        run(where, counting(25, crash))
    run(where)
    grown = run(where, num_draws=8, num_chains=3)
    same_numbers(grown.load(), run(num_draws=8, num_chains=3))
    same_numbers(devinterp.open(where).load(), grown.load())
    assert lock.holder(resolve(where)) is None


def test_locked_anywhere(where: Any) -> None:
    with lock.Lock(resolve(where), "there"), pytest.raises(StoreError, match="being written by process"):
        run(where)


def test_a_url_and_what_it_names_are_one(tmp_path: Any) -> None:
    run(f"file://{tmp_path}/run.zarr")
    same_numbers(devinterp.open(tmp_path / "run.zarr").load(), run())


def test_nothing_is_left_in_memory_file_systems() -> None:
    url = f"memory://{uuid.uuid4().hex}/run.zarr"
    run(url)
    left = fsspec.filesystem("memory").find(url.removeprefix("memory:/"))
    assert left
    assert not [name for name in left if "/lock/" in name or "/resume/" in name]
