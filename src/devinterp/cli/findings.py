"""The findings of ``devinterp diagnose`` as text, and the exit status that a verdict gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from rich.console import Console
from rich.markup import escape
from rich.table import Table

#: Exit status by verdict: scripts can tell a run that is not to be used from one that could not be read (1, 2).
EXIT_STATUS = {"ok": 0, "note": 0, "warning": 3, "reject": 4}
#: Of more runs than this only the table is shown.
_MOST_RUNS = 4
_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "reject": "red"}


def is_diagnosis(result: Any) -> bool:
    """Say whether a result of an analysis is that of ``diagnose``."""
    return isinstance(result, xr.Dataset) and {"verdict", "code", "severity"} <= set(map(str, result.variables))


def exit_status(result: xr.Dataset) -> int:
    """Return the exit status of a diagnosis: of several runs that of the worst."""
    verdicts = np.atleast_1d(result["verdict"].to_numpy()).ravel().tolist()
    return max(EXIT_STATUS[verdict] for verdict in verdicts if isinstance(verdict, str))


def show_findings(result: xr.Dataset, console: Console | None = None) -> None:
    """Print the verdict of each run, its findings, and what could not be looked at.

    Parameters
    ----------
    result : xarray.Dataset
        From ``tree.slt.diagnose()``, of one run or of several.
    console : rich.console.Console, optional
        Where to print; default: the standard output stream.
    """
    console = console or Console()
    runs = list(_runs(result))
    if len(runs) > 1:
        console.print(_table(runs))
    if len(runs) > _MOST_RUNS:
        console.print("What is said of each run: `devinterp diagnose STORE --group RUN`.", highlight=False)
        return
    for name, run in runs:
        verdict = str(run["verdict"].item())
        title = f"{name}: " if name else ""
        console.print(f"{escape(title)}[bold {_STYLES[verdict]}]{verdict}[/]", soft_wrap=True)
        for number in range(run.sizes["finding"]):
            _show_finding(run.isel(finding=number), console)
        for number, is_looked_at in enumerate(run["looked_at"].to_numpy().astype(bool)):
            if is_looked_at:
                continue
            check, reason = (str(run[each].to_numpy()[number]) for each in ("check", "reason"))
            console.print(f"  [dim]not looked at: {escape(check)}: {escape(reason)}[/]", soft_wrap=True)


def _show_finding(finding: xr.Dataset, console: Console) -> None:
    severity = finding["severity"].item()
    if not isinstance(severity, str):
        return  # other runs have more findings
    place = [str(finding[name].item()) for name in ("restriction", "observable") if finding[name].item()]
    if int(finding["chain"].item()) >= 0:
        place.append(f"chain {int(finding['chain'].item())}")
    head = f"  [{_STYLES[severity]}]{severity}[/] [bold]{escape(str(finding['code'].item()))}[/]"
    console.print(
        f"{head}{escape(' (' + ', '.join(place) + ')') if place else ''}: {escape(str(finding['message'].item()))}",
        soft_wrap=True,
        highlight=False,
    )
    if finding["advice"].item():
        console.print(f"    {escape(str(finding['advice'].item()))}", soft_wrap=True, highlight=False)


def _runs(result: xr.Dataset) -> Iterator[tuple[str, xr.Dataset]]:
    """Yield each run of a result and what tells it from the others."""
    dims = result["verdict"].dims
    for place in np.ndindex(result["verdict"].shape):
        run = result.isel(dict(zip(dims, place, strict=True)))
        if isinstance(run["verdict"].item(), str):  # else there is no such run in the study
            yield ", ".join(f"{dim} {run[dim].item()}" for dim in dims), run


def _table(runs: list[tuple[str, xr.Dataset]]) -> Table:
    """Return one table of all runs: the verdict of each, and what was found how often."""
    table = Table("run", "verdict", "findings", title="Verdicts", title_justify="left")
    for name, run in runs:
        verdict = str(run["verdict"].item())
        codes = Counter(code for code in run["code"].to_numpy().ravel().tolist() if isinstance(code, str))
        shown = ", ".join(code if number == 1 else f"{code} ({number})" for code, number in codes.items())
        table.add_row(escape(name), f"[{_STYLES[verdict]}]{verdict}[/]", escape(shown))
    return table
