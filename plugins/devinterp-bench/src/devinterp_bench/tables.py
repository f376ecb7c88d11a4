"""Measurements as tables: in a terminal, and in docs/accuracy.md."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rich.markup import escape
from rich.table import Table

from devinterp_bench.measure import Measurement, summarise

_COLUMNS = ("problem", "truth", "m", "estimate", "± stated", "relative error", "corrected", "ESS/gradient", "seconds")
_SUMMARY = (
    "kernel",
    "median error",
    "less step size",
    "less both",
    "worst",
    "pairs in order",
    "ESS/gradient",
    "seconds",
    "diverged",
)


def rich_tables(measurements: Sequence[Measurement]) -> list[Table]:
    """Return a table for each kernel, and one with the summary of all."""
    tables = []
    for kernel in dict.fromkeys(m.kernel for m in measurements):
        rows = _rows([m for m in measurements if m.kernel == kernel])
        tables.append(_table(f"{kernel}: means over seeds", _COLUMNS, rows))
    tables.append(_table("All problems", _SUMMARY, _summary_rows(measurements)))
    return tables


def markdown(measurements: Sequence[Measurement]) -> str:
    """Return the tables of `rich_tables` as Markdown, the summary first."""
    parts = [_markdown(_SUMMARY, _summary_rows(measurements))]
    by_kernel = {m.kernel: [n for n in measurements if n.kernel == m.kernel] for m in measurements}
    parts += [f"### {kernel}\n\n{_markdown(_COLUMNS, _rows(mine))}" for kernel, mine in by_kernel.items()]
    return "\n".join(parts)


def _rows(measurements: Sequence[Measurement]) -> list[list[str]]:
    rows = []
    for problem in dict.fromkeys(m.problem for m in measurements):
        mine = [m for m in measurements if m.problem == problem]
        mean = float(np.mean([m.estimate for m in mine]))
        error = math.sqrt(sum(m.error**2 for m in mine)) / len(mine)
        truth = mine[0].truth
        corrected = float(np.mean([m.corrected for m in mine])) / truth - 1
        rows.append(
            [
                problem,
                f"{truth:.4g}",
                str(mine[0].multiplicity),
                _number(mean, ".4g"),
                _number(error, ".2g"),
                _number(mean / truth - 1, "+.1%"),
                _number(corrected, "+.1%"),
                _number(float(np.mean([m.ess_per_gradient for m in mine])), ".4f"),
                _number(sum(m.seconds for m in mine), ".0f"),
            ]
        )
    return rows


def _summary_rows(measurements: Sequence[Measurement]) -> list[list[str]]:
    rows = []
    for kernel, figures in summarise(measurements).items():
        rows.append(
            [
                kernel,
                _number(figures["median_relative_error"], ".1%"),
                _number(figures["median_relative_error_step_corrected"], ".1%"),
                _number(figures["median_relative_error_corrected"], ".1%"),
                _number(figures["worst_relative_error"], ".1%"),
                _number(figures["in_order"], ".1%"),
                _number(figures["median_ess_per_gradient"], ".4f"),
                _number(figures["seconds"], ".0f"),
                f"{figures['num_diverged']:.0f}",
            ]
        )
    return rows


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
