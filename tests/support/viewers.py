"""A viewer for tests: asked in this process, or on a port of this machine."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.testclient import TestClient

from devinterp_view.server.app import make_app
from devinterp_view.server.opened import Library
from devinterp_view.server.viewer import Viewer
from devinterp_view.view import listening

TOKEN = "a-token"
BASE = "http://127.0.0.1:8765"


@contextmanager
def client_of(path: Path, **options: Any) -> Iterator[TestClient]:
    """Yield a client of a viewer of a store, which asks as a browser on this machine does."""
    app = make_app(Viewer(Library(str(path)), **options), TOKEN)
    with TestClient(app, base_url=BASE, raise_server_exceptions=False) as client:
        yield client


@contextmanager
def served(path: Path, **options: Any) -> Iterator[str]:
    """Yield the address of a viewer of a store that listens on this machine, in a thread."""
    viewer = Viewer(Library(str(path)), **options)
    with listening(0) as listener:
        config = uvicorn.Config(make_app(viewer, TOKEN), log_level="warning", ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/{TOKEN}/"
        finally:
            server.should_exit = True
            thread.join(10)


def lines(client: TestClient, address: str, **query: Any) -> list[dict[str, Any]]:
    """Return all lines of an answer."""
    answer = client.get(f"/{TOKEN}/{address}", params={"run": ".", **query})
    assert answer.status_code == 200
    return [json.loads(line) for line in answer.text.splitlines()]


def last(client: TestClient, address: str, **query: Any) -> dict[str, Any]:
    """Return the last line of an answer: the result, or why there is none."""
    return lines(client, address, **query)[-1]


def result(client: TestClient, address: str, **query: Any) -> Any:
    """Return what was computed."""
    line = last(client, address, **query)
    assert "result" in line, line
    return line["result"]
