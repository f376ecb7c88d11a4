"""``devinterp plot``: a picture of a store as a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("devinterp_plots", reason="devinterp-plots is not installed")

Run = Callable[..., tuple[int, str, str]]


def test_a_picture_is_written(run: Run, store: Path, tmp_path: Path) -> None:
    output = tmp_path / "pictures" / "tokens.svg"
    code, out, err = run(
        "plot", "tokens", store, "--observable", "code", "--restriction", "full", "part1", "--dark", "-o", output
    )
    assert (code, err) == (0, "")
    assert out == f"Wrote {output}.\n"
    assert "#1b1d21" in output.read_text()
    code, _, err = run("plot", "llc", store, "-o", tmp_path / "llc.gif")
    assert code == 2
    assert "must end in one of .png, .svg, .pdf" in err
    code, _, err = run("plot", "rank", store, "-o", tmp_path / "rank.png")
    assert code == 2
    assert "restriction: choose one of 'full', 'part1'" in err


def test_its_options_are_those_of_the_plot_without_what_cannot_be_written(run: Run) -> None:
    code, out, _ = run("plot", "--help")
    assert code == 0
    for name in ("trace", "llc", "tokens", "bif", "susceptibilities", "rank", "autocorrelation", "diagnose"):
        assert f"\n│ {name} " in out
    _, out, _ = run("plot", "tokens", "--help")
    for option in ("--observable", "--of", "--query", "--tokenizer", "--dark", "--output -o", "--group"):
        assert option in out
    assert "--ax " not in out
