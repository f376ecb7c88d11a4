"""``devinterp doctor``: whether the installation works, and what is missing."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def doctor(
    *, self_test: Annotated[bool, Parameter(help="Sample a problem whose coefficient is known; takes seconds.")] = True
) -> None:
    """Show versions, devices and what is missing, and try a run whose result is known; exit with 1 if there are problems.

    Extras and plugins that are not installed are no problem. One that is installed and cannot be loaded is.
    """
    from devinterp.doctor import examine  # looks at torch, which takes seconds to import

    console = Console()
    with console.status("sampling a problem whose coefficient is known" if self_test else "looking around"):
        report = examine(self_test=self_test)
    for name, value in report.system:
        console.print(f"[bold]{name:10}[/] {escape(value)}", highlight=False, soft_wrap=True)
    table = Table(title="Requirements", title_justify="left")
    for heading in ("required", "installed"):
        table.add_column(heading, overflow="fold")
    for package in report.packages:
        colour = "green" if package.fits else "red"
        table.add_row(escape(package.requirement), f"[{colour}]{package.installed or 'not installed'}[/]")
    console.print(table)
    table = Table(title="Optional parts", title_justify="left")
    for heading in ("part", "brings", "installed, or how"):
        table.add_column(heading, overflow="fold")
    for part in report.parts:
        table.add_row(escape(part.name), part.brings, "[green]yes[/]" if part.installed else escape(part.command))
    console.print(table)
    if report.self_test is not None:
        console.print(f"[bold]Self test:[/] {report.self_test}", highlight=False, soft_wrap=True)
    for problem in report.problems:
        console.print(f"[bold red]problem:[/] {escape(problem)}", highlight=False, soft_wrap=True)
    if not report.problems:
        console.print(
            "[green]Everything that is installed works.[/]" if self_test else "[green]No problem was seen.[/]"
        )
    raise SystemExit(min(len(report.problems), 1))
