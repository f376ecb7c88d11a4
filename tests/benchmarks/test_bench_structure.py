"""From moments to neighbours with 100,000 and a million tokens × 400 restrictions: linear in tokens, within 4 GB."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("devinterp_structure", reason="devinterp-structure is not installed")
pytest.importorskip("faiss")
pytestmark = pytest.mark.benchmark

SCRIPT = Path(__file__).with_name("structure_scale.py")
STEPS = ("raw", "matrix", "pca", "neighbours")
#: The neighbours of all 400 columns, instead of those of 50 components; of a million tokens faiss's index takes over 4 GB.
OF_COLUMNS, MOST_OF_COLUMNS = "neighbours_400", 10**5


def _run(*arguments: object) -> dict[str, float]:
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "DEVINTERP_TYPECHECK": "0"}
    # Else glibc keeps freed blocks of a few MB in its heaps, which fall to pieces (docs/analyses.md).
    environment["MALLOC_MMAP_THRESHOLD_"] = str(2**20)
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}


def test_from_moments_to_neighbours(tmp_path: Path) -> None:
    sizes = [int(float(size)) for size in os.environ.get("DEVINTERP_BENCH_TOKENS", "1e5,1e6").split(",")]
    figures: dict[int, dict[str, dict[str, float]]] = {}
    for size in sizes:
        folder = tmp_path / str(size)
        folder.mkdir()
        _run("write", folder / "run.zarr", size)
        steps = (*STEPS, OF_COLUMNS) if size <= MOST_OF_COLUMNS else STEPS
        figures[size] = {step: _run(step, folder / "run.zarr", folder) for step in steps}
        for step, figure in figures[size].items():
            print(f"\n{size:,} tokens, {step}: " + ", ".join(f"{n} {v:.3g}" for n, v in figure.items()), end="")
    print()
    for by_step in figures.values():
        assert max(figure["gigabytes"] for figure in by_step.values()) <= 4.0
        assert by_step["neighbours"]["recall"] > 0.75
    totals = [sum(figures[size][step]["seconds"] for step in STEPS) for size in sizes]
    print("in all, of 50 components: " + ", ".join(f"{total:.0f} s" for total in totals))
    for few, many, short, long in zip(sizes, sizes[1:], totals, totals[1:], strict=False):
        assert long / short <= 2.0 * many / few  # linear, or no more than twice that
