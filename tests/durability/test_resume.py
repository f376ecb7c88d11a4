"""A run that was interrupted and goes on equals one that was not, array for array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import devinterp
from durability.runs import Ended, counting, crash, run
from sampling.problems import same_numbers

SGLD: dict[str, Any] = {}
RMSPROP: dict[str, Any] = {"sampling_method": "rmsprop_sgld", "rmsprop_alpha": 0.9}


@pytest.mark.parametrize("chains", ["sequential", "vectorized"])
@pytest.mark.parametrize("kernel", [SGLD, RMSPROP], ids=["sgld", "rmsprop"])
def test_crashes_at_many_steps(tmp_path: Path, kernel: dict[str, Any], chains: str) -> None:
    settings = {**kernel, "chains": chains, "num_draws": 8}
    whole = run(**settings)
    path = tmp_path / "run.zarr"
    ended, after = 0, 8
    while True:
        try:
            run(path, counting(after, crash), **settings)
            break
        except Ended:
            ended += 1
            after += 2  # so that every attempt gets further, even if the machine is too busy to save a state
    assert ended >= 3
    same_numbers(whole, devinterp.open(path).load())
    assert not (path / "resume").exists()
    assert not (path / "lock").exists()
