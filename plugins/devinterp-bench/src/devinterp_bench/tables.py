"""Measurements as tables: in a terminal, and in docs/accuracy.md."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rich.markup import escape
from rich.table import Table

from devinterp_bench.measure import Measurement
from devinterp_bench.summary import mean_over_seeds, summarise

_COLUMNS = (
    "problem",
    "n_beta",
    "localization",
    "lr",
    "truth",
    "m",
    "estimate",
    "± stated",
    "relative error",
    "corrected",
    "ESS/gradient",
    "seconds",
)
_SUMMARY = (
    "kernel",
    "median error",
    "less step size",
    "worst",
    "pairs in order",
    "of those that could be swapped",
    "ESS/gradient",
    "seconds",
    "diverged",
)


def accuracy_tables(measurements: Sequence[Measurement]) -> list[tuple[str, Sequence[str], list[list[str]]]]:
    """Return title, columns and rows of a table with the summary of all kernels, and of one for each kernel."""
    by_kernel = {m.kernel: [n for n in measurements if n.kernel == m.kernel] for m in measurements}
    tables = [(f"{kernel}: means over seeds", _COLUMNS, _rows(mine)) for kernel, mine in by_kernel.items()]
    return [("All problems", _SUMMARY, _summary_rows(measurements)), *tables]


def _rows(measurements: Sequence[Measurement]) -> list[list[str]]:
    rows = []
    for problem in dict.fromkeys(m.problem for m in measurements):
        mine = [m for m in measurements if m.problem == problem]
        mean, error = mean_over_seeds(mine)
        truth = mine[0].truth
        corrected = float(np.mean([m.corrected for m in mine])) / truth - 1
        rows.append(
            [
                problem,
                f"{mine[0].n_beta:.3g}",
                f"{mine[0].localization:.3g}",
                f"{mine[0].lr:.3g}",
                f"{truth:.4g}",
                str(mine[0].multiplicity),
                number(mean, ".4g"),
                number(error, ".2g"),
                number(mean / truth - 1, "+.1%"),
                number(corrected, "+.1%"),
                number(float(np.mean([m.ess_per_gradient for m in mine])), ".4f"),
                number(sum(m.seconds for m in mine), ".0f"),
            ]
        )
    return rows


def _summary_rows(measurements: Sequence[Measurement]) -> list[list[str]]:
    rows = []
    for kernel, figures in summarise(measurements).items():
        rows.append(
            [
                kernel,
                number(figures["median_relative_error"], ".1%"),
                number(figures["median_relative_error_step_corrected"], ".1%"),
                number(figures["worst_relative_error"], ".1%"),
                f"{figures['pairs_in_order']:.0f} of {figures['pairs']:.0f}",
                f"{figures['close_pairs_in_order']:.0f} of {figures['close_pairs']:.0f}",
                number(figures["median_ess_per_gradient"], ".4f"),
                number(figures["seconds"], ".0f"),
                f"{figures['num_diverged']:.0f}",
            ]
        )
    return rows


def number(value: float, form: str) -> str:
    """Return a formatted number, a dash for NaN."""
    return "-" if math.isnan(value) else format(value, form)


def rich_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return rows of text as a table for a terminal."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows of text as a Markdown table."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
