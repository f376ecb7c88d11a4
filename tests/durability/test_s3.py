"""Runs in object storage: an S3-compatible server that the test starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import devinterp
from devinterp.errors import StoreError
from devinterp.store import lock
from devinterp.store.location import resolve
from support.object_store import object_store
from support.small_models import same_numbers
from support.small_runs import Ended, counting, crash, run

pytest.importorskip("s3fs", reason="needs s3fs (extra s3)")
pytest.importorskip("moto", reason="needs moto's server")
# Clients of object stores leave sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def bucket() -> Iterator[tuple[str, dict[str, Any]]]:
    with object_store() as options:
        yield "s3://runs/run.zarr", options


@pytest.mark.heavy
def test_a_run_in_a_bucket(bucket: tuple[str, dict[str, Any]]) -> None:
    url, options = bucket
    with pytest.raises(Ended):
        run(url, counting(25, crash), storage_options=options)
    same_numbers(run(url, storage_options=options).load(), run())
    same_numbers(run(url, num_draws=8, storage_options=options).load(), run(num_draws=8))
    same_numbers(devinterp.open(url, storage_options=options).load(), run(num_draws=8))
    store = resolve(url, storage_options=options)
    assert lock.holder(store) is None
    with lock.Lock(store, url), pytest.raises(StoreError, match="being written by process"):
        run(url, num_draws=9, storage_options=options)


@pytest.mark.heavy
def test_files_are_read_in_one_request_unless_told_otherwise() -> None:
    url, options = "s3://runs/run.zarr", {"key": "testing", "secret": "testing", "endpoint_url": "http://127.0.0.1:9"}
    assert resolve(url, storage_options=options).fs.max_concurrency == 1
    assert resolve(url, storage_options={**options, "max_concurrency": 4}).fs.max_concurrency == 4
