"""Runs in object storage: an S3-compatible server that the test starts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

import devinterp
from devinterp.errors import StoreError
from devinterp.store import lock
from devinterp.store.location import resolve
from support.small_models import same_numbers
from support.small_runs import Ended, counting, crash, run

pytest.importorskip("s3fs", reason="needs s3fs (extra s3)")
pytest.importorskip("moto", reason="needs moto's server")
# Clients of object stores leave sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    url = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            urllib.request.urlopen(url).close()
            break
        except OSError:
            time.sleep(0.2)
    yield url
    process.terminate()
    process.wait()


@pytest.fixture
def bucket(server: str) -> tuple[str, dict[str, Any]]:
    import s3fs

    options = {"key": "testing", "secret": "testing", "endpoint_url": server}
    s3fs.S3FileSystem(**options).mkdir("runs")
    return "s3://runs/run.zarr", options


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


def test_files_are_read_in_one_request_unless_told_otherwise() -> None:
    url, options = "s3://runs/run.zarr", {"key": "testing", "secret": "testing", "endpoint_url": "http://127.0.0.1:9"}
    assert resolve(url, storage_options=options).fs.max_concurrency == 1
    assert resolve(url, storage_options={**options, "max_concurrency": 4}).fs.max_concurrency == 4
