"""SIGKILL at random instants loses nothing: the run that is started again ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import devinterp
from support import kill_at_random as killed
from support.small_models import same_numbers
from support.small_runs import run

#: About two seconds of sampling.
LONGER: dict[str, Any] = {"num_draws": 60, "num_steps_bw_draws": 4, "checkpoint_share": 0.3}
RMSPROP = {"sampling_method": "rmsprop_sgld"}


def kill_repeatedly(path: Path, settings: dict[str, Any], *, kills: int, longest: float) -> dict[str, int]:
    options = {"settings": settings, "kills": kills, "longest": longest, "seed": 0}
    found = subprocess.run(
        [sys.executable, killed.__file__, str(path), json.dumps(options)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert found.returncode == 0, found.stderr
    return {**json.loads(found.stdout.splitlines()[-1]), "errors": found.stderr}


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("kernel", "chains", "kills"),
    [
        (RMSPROP, "sequential", 6),
        pytest.param(RMSPROP, "sequential", 20, marks=pytest.mark.slow),
        pytest.param({}, "vectorized", 20, marks=pytest.mark.slow),
        pytest.param({}, "sequential", 20, marks=pytest.mark.slow),
    ],
)
def test_killed_many_times(tmp_path: Path, kernel: dict[str, Any], chains: str, kills: int) -> None:
    # About four seconds of sampling, so that most kills after a quarter of a second each fall into it.
    settings = {**LONGER, **kernel, "chains": chains, "num_draws": 120}
    ended = kill_repeatedly(tmp_path / "run.zarr", settings, kills=kills, longest=0.5)
    assert ended["code"] == 0, ended["errors"]
    assert ended["killed"] >= 0.75 * kills  # all, where the machine is not much faster
    same_numbers(run(**settings), devinterp.open(tmp_path / "run.zarr").load())
    assert not list((tmp_path / "run.zarr").glob("resume"))
