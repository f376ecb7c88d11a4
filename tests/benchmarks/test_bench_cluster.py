"""What the scheduler of a Dask cluster spends on a chain, and whether that grows with their number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="distributed is not installed")
pytestmark = pytest.mark.benchmark

#: Ten times as many take ten minutes on two cores: ``DEVINTERP_BENCH_CHAINS=1000,10000``.
NUM_CHAINS = [int(number) for number in os.environ.get("DEVINTERP_BENCH_CHAINS", "400,1200").split(",")]


def test_what_a_chain_costs_does_not_depend_on_their_number(tmp_path: Path) -> None:
    results = []
    for number in NUM_CHAINS:
        command = [sys.executable, "-m", "benchmarks.cluster_scale", str(number), tmp_path / str(number)]
        done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print("\n" + ", ".join(f"{name} {value:.4g}" for name, value in results[-1].items()), end="")
    few, many = results[0], results[-1]
    assert many["ms_of_scheduler"] <= 25
    assert many["ms_of_scheduler"] < 1.5 * few["ms_of_scheduler"]
    assert many["client_growth_mb"] < few["client_growth_mb"] + 0.03 * (many["chains"] - few["chains"])
