"""What the command prints and writes: tables, records of numbers, and what they were measured with."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch
from rich.table import Table

import devinterp
from devinterp_bench.tables import markdown_table, rich_table


@dataclass(frozen=True)
class TextTable:
    """A table of text.

    Parameters
    ----------
    title : str
        What it shows.
    columns : sequence of str
        Names of its columns.
    rows : sequence of sequence of str
        Its cells.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def rich(self) -> Table:
        """Return it for a terminal."""
        return rich_table(self.title, self.columns, self.rows)

    def markdown(self) -> str:
        """Return it as Markdown, under a heading."""
        return f"### {self.title}\n\n{markdown_table(self.columns, self.rows)}"


@dataclass(frozen=True)
class Report:
    """Tables, and the numbers they were made from.

    Parameters
    ----------
    tables : list of TextTable
        What is printed.
    records : dict
        JSON-able: what is written to a file.
    """

    tables: list[TextTable]
    records: dict[str, Any] = field(default_factory=dict)

    def markdown(self) -> str:
        """Return all tables as Markdown, under a line that says when and with what they were measured."""
        return "\n".join([f"Measured {machine()}.\n", *(table.markdown() for table in self.tables)])


def machine() -> str:
    """Return date, number of processors and versions, for whoever reads the figures."""
    date = datetime.now(UTC).date().isoformat()
    return f"{date}, {os.cpu_count()} cores ({platform.machine()}), " + ", ".join(
        f"{name} {version}" for name, version in versions().items()
    )


def versions() -> dict[str, str]:
    """Return the versions that numbers may depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "devinterp": devinterp.__version__,
    }
