"""``devinterp view`` on the command line: what it prints, where it listens, and what it refuses."""

from __future__ import annotations

import re
import socket

import pytest
import uvicorn

from devinterp import cli
from devinterp.testing import synthetic_tree
from support.written_trees import write


@pytest.fixture
def store(tmp_path):
    return write(synthetic_tree(num_draws=4, observables={"a": (2, 6)}), tmp_path / "run.zarr")


@pytest.fixture
def served(monkeypatch):
    """What would be served: the configuration and the sockets, in place of serving for ever."""
    calls = []

    def run(self, sockets):
        calls.append((self.config, [each.getsockname() for each in sockets]))

    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setenv("COLUMNS", "300")
    return calls


def test_it_listens_on_this_machine_only_under_an_address_that_is_new_each_time(store, served, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert cli.run(["view", str(store)]) == 0
    assert cli.run(["view", str(store), "--no-browser"]) == 0
    addresses = re.findall(r"http://127\.0\.0\.1:(\d+)/([\w-]{40,})/", capsys.readouterr().out)
    assert len({token for _, token in addresses}) == 2
    assert [int(port) for port, _ in addresses] == [sockets[0][1] for _, sockets in served]
    assert {sockets[0][0] for _, sockets in served} == {"127.0.0.1"}
    assert opened == [f"http://127.0.0.1:{addresses[0][0]}/{addresses[0][1]}/"]


def test_what_cannot_be_shown_is_said(store, served, capsys, tmp_path):
    assert cli.run(["view", str(tmp_path / "nothing.zarr"), "--no-browser"]) != 0
    assert "there is no store at" in capsys.readouterr().err
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        assert cli.run(["view", str(store), "--no-browser", "--port", str(port)]) != 0
    assert f"`port` (={port}) cannot be used" in capsys.readouterr().err
    assert cli.run(["view", str(store), "--no-browser", "--port", "70000"]) != 0
    assert "must be 0 to 65535" in capsys.readouterr().err
    assert cli.run(["view", str(store), "--no-browser", "--top-k", "0"]) != 0
    assert "`top_k` (=0) must be 1 to 50" in capsys.readouterr().err
    assert served == []
