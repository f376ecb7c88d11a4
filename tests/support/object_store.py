"""An S3-compatible server on this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def started(*command: str, log: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run Python with some arguments until the block ends, which can import what this process can.

    Parameters
    ----------
    *command : str
        The arguments.
    log : Path, optional
        Where what it says is written; default: nowhere.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with Path(os.devnull if log is None else log).open("wb") as file:
        process = subprocess.Popen([sys.executable, *command], stdout=file, stderr=file, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


@contextmanager
def object_store(log: Path | None = None) -> Iterator[dict[str, Any]]:
    """Run a server until the block ends, and give the options with which fsspec finds it; it has a bucket ``runs``.

    Parameters
    ----------
    log : Path, optional
        Where it writes a line about each request.
    """
    import s3fs

    port = free_port()
    options = {"key": "testing", "secret": "testing", "endpoint_url": f"http://127.0.0.1:{port}"}
    with started("-m", "moto.server", "-H", "127.0.0.1", "-p", str(port), log=log):
        for _ in range(300):
            try:
                urllib.request.urlopen(options["endpoint_url"]).close()
                break
            except OSError:
                time.sleep(0.2)
        s3fs.S3FileSystem(**options).mkdir("runs")
        yield options
