"""How long `devinterp view` takes to find a token's strongest candidates in all data, at first and from its cache."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("devinterp_view", reason="devinterp-view is not installed")

pytestmark = pytest.mark.benchmark

HERE = Path(__file__).parent
GIGABYTES = os.environ.get("DEVINTERP_BENCH_GB", "1").split(",")
#: One weight restriction, so that a query reads all of the store.
WRITE = "import out_of_core, sys; out_of_core.RESTRICTIONS = 1; out_of_core.write(sys.argv[1], sys.argv[2])"
SHOW = "import sys; from devinterp.cli import main; sys.argv[0] = 'devinterp'; main()"


def _environment() -> dict[str, str]:
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {name: value for name, value in os.environ.items() if name not in threads} | dict.fromkeys(threads, "1")


def _asked(address: str, **query: int) -> tuple[float, float, dict]:
    """Return after how many seconds the candidates of a token are there, and their errors too; and the answer."""
    words = "&".join(f"{key}={value}" for key, value in query.items())
    start, candidates = time.perf_counter(), None
    with urllib.request.urlopen(f"{address}influence?run=.&{words}") as answer:
        for line in map(json.loads, answer):
            if "pieces" in line:
                candidates = time.perf_counter() - start
    taken = time.perf_counter() - start
    assert "result" in line, line
    return taken if candidates is None else candidates, taken, line["result"]


def _peak(pid: int) -> float:
    """Return the most memory that a process has had, in GB."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+)", text)[1]) * 1024 / 1e9


@pytest.mark.parametrize("gigabytes", GIGABYTES)
def test_the_strongest_candidates_in_all_data(gigabytes, tmp_path):
    store = tmp_path / "run.zarr"
    subprocess.run([sys.executable, "-c", WRITE, store, gigabytes], cwd=HERE, env=_environment(), check=True)
    command = [sys.executable, "-c", SHOW, "view", str(store), "--no-browser"]
    environment = _environment() | {"PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().strip()
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{address}state?run=.").close()
                break
            except OSError:
                time.sleep(0.1)
        kinds = {
            "the first token": {"sequence": 7, "token": 40},
            "the same token again": {"sequence": 7, "token": 40},
            "another token of its passage": {"sequence": 7, "token": 41},
            "a token of another passage": {"sequence": 900, "token": 3},
        }
        seconds, answers = {}, {}
        print(f"\n{gigabytes} GB, seconds until candidates are there and until their errors are: ", end="")
        for kind, query in kinds.items():
            seconds[kind], with_errors, answers[kind] = _asked(address, observable=1, **query)
            print(f"{kind} {seconds[kind]:.2f} and {with_errors:.2f}; ", end="")
        print(f"peak {_peak(server.pid):.2f} GB")
        assert answers["the first token"] == answers["the same token again"]
        assert len(answers["the first token"]["sides"][0]) == 10
        assert seconds["the same token again"] < 0.05 * seconds["the first token"]
        assert seconds["another token of its passage"] < 0.5 * seconds["the first token"]
    finally:
        server.terminate()
        server.wait(20)
        server.stdout.close()
