"""How fast the analyses are and how little memory they need, next to plain implementations measured in the same run.

Each measurement has a process of its own, without the run-time type checks of the tests. ``DEVINTERP_BENCH_GB`` sets the sizes
of the stores of the out-of-core benchmark, for example ``1,20``; default: 1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.benchmark

HERE = Path(__file__).parent
SIZES = [float(size) for size in os.environ.get("DEVINTERP_BENCH_GB", "1").split(",")]
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def _run(script, *arguments, threads=None, large_blocks=False):
    environment = {name: value for name, value in os.environ.items() if name not in _THREADS}
    if threads is not None:
        environment |= dict.fromkeys(_THREADS, str(threads))
    if large_blocks:
        # Else glibc keeps freed chunks of a few MB in its heaps, which fall to pieces (docs/analyses.md).
        environment["MALLOC_MMAP_THRESHOLD_"] = str(2**20)
    command = [sys.executable, HERE / script, *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}


def test_token_bif():
    """128 sequences of 64 tokens, 800 draws."""
    found = _run("in_memory.py", "token_bif")
    pairwise, token, averaged = found["pairwise"], found["token"], found["averaged"]
    print(
        f"\ntoken BIF {token:.2f} s: pairwise blocks {pairwise:.2f} s ({pairwise / token:.0f} x), bare matrix product "
        f"{found['product']:.2f} s ({token / found['product']:.2f} of it)\naveraged BIF {1e3 * averaged:.1f} ms (rows alone "
        f"{1e3 * found['averaged_rows']:.1f} ms): pairwise blocks {pairwise / averaged:.0f} x"
    )
    assert pairwise / token >= 15
    assert token / found["product"] <= 1.5
    assert pairwise / averaged >= 500


def test_on_the_tree_of_a_store():
    """A small store is read once: later calls take as long as in memory, and the second is not slower than the first."""
    times = _run("from_store.py")
    sums = times.pop("sums")["memory_later"]
    print(f"\nsums of all losses in numpy: {1e3 * sums:.1f} ms", end="")
    for name, taken in times.items():
        print(f"\n{name}: " + ", ".join(f"{kind} {1e3 * seconds:.1f} ms" for kind, seconds in taken.items()), end="")
        assert taken["store_later"] <= 1.2 * taken["memory_later"] + 2e-3
        assert taken["store_later"] <= 1.1 * taken["store_first"]
    # xarray's upkeep of labels took eight times as long as the arithmetic.
    assert times["llc"]["store_later"] <= 5 * sums
    assert times["averaged"]["store_later"] <= 0.5 * times["averaged"]["dask_later"]


@pytest.mark.parametrize("job", ["sequence_bif", "susceptibilities"])
def test_no_slower_than_one_liners(job):
    found = _run("in_memory.py", job)
    ratio = found["ours"] / found["plain"]
    print(
        f"\n{job}: {1e3 * found['ours']:.0f} ms, in-memory one-liner {1e3 * found['plain']:.0f} ms ({ratio:.2f} of it)"
    )
    assert ratio <= 1.05


def test_convergence():
    found = _run("in_memory.py", "convergence")
    ratio = found["arviz"] / found["ours"]
    print(
        f"\nR-hat, ESS and MCSE: {1e6 * found['ours']:.0f} us a series, ArviZ {1e6 * found['arviz']:.0f} us ({ratio:.0f} x)"
    )
    assert ratio >= 5


@pytest.mark.parametrize("gigabytes", SIZES)
def test_out_of_core_under_two_gigabytes(gigabytes, tmp_path):
    """Every analysis of a store, each in a process that cannot have more than 2 GB."""
    store = tmp_path / "losses.zarr"
    _run("out_of_core.py", "write", store, gigabytes, threads=1)
    print(f"\n{gigabytes:g} GB of losses")
    for name in ("sequence", "averaged", "strongest", "strongest_sequences", "susceptibilities", "llc"):
        found = _run("out_of_core.py", name, store, tmp_path / f"{name}.zarr", threads=1, large_blocks=True)
        print(
            f"  {name:20s}{found['seconds']:7.1f} s {found['seconds'] / gigabytes:7.2f} s/GB, peak {found['peak_gb']:.2f} GB, "
            f"each chunk read {found['reads_per_chunk']:.2f} times"
        )
        assert found["peak_gb"] < 2
        # The chunks that hold the queries are read for them and again as candidates.
        assert found["reads_per_chunk"] <= 1 + found["query_share"] + 1e-9


def test_diagnosis_of_a_hundred_thousand_series(tmp_path):
    """Two restrictions, 50,000 tokens: their chains are compared, too, for which losses are read a second time."""
    _run("out_of_core.py", "write", tmp_path / "losses.zarr", 0.32, threads=1)
    found = _run("out_of_core.py", "diagnose", tmp_path / "losses.zarr", tmp_path / "found.zarr", threads=1)
    print(
        f"\ndiagnosis of 100,000 series: {found['seconds']:.1f} s, peak {found['peak_gb']:.2f} GB, each chunk read "
        f"{found['reads_per_chunk']:.2f} times"
    )
    assert found["peak_gb"] < 2
    assert found["reads_per_chunk"] <= 2 + 1e-9


def test_opening_four_hundred_restrictions_with_ten_observables(tmp_path):
    _run("out_of_core.py", "write_many", tmp_path / "many.zarr")
    found = _run("out_of_core.py", "open", tmp_path / "many.zarr")
    print(f"\nopening 400 restrictions x 10 observables: {found['seconds']:.3f} s")
    assert found["seconds"] <= 1
