"""What starting costs: importing the package, and help at the command line, next to importing xarray."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.benchmark

CLI = "import sys, devinterp.cli; sys.exit(devinterp.cli.run(sys.argv[1:]))"


def processor_time(code: str, *arguments: str) -> float:
    """Return the least processor time of three processes that run some code."""
    taken = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, check=True)
        after = os.times()
        taken.append(after.children_user + after.children_system - before.children_user - before.children_system)
    return min(taken)


def test_importing_costs_at_most_0_3_s_more_than_xarray() -> None:
    alone, both = processor_time("import xarray"), processor_time("import xarray, devinterp")
    print(f"\nimport xarray {alone:.2f} s; with devinterp {both:.2f} s")
    assert both - alone <= 0.3


@pytest.mark.parametrize("arguments", [["--help"], ["llc", "--help"], ["plugins"]], ids=" ".join)
def test_help_is_fast(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.delenv("DEVINTERP_LOAD_PLUGINS", raising=False)
    alone, taken = processor_time("import xarray"), processor_time(CLI, *arguments)
    print(f"\ndevinterp {' '.join(arguments)} {taken:.2f} s; import xarray {alone:.2f} s: {taken / alone:.1f} x")
    assert taken <= 4 * alone
    assert taken < 5
