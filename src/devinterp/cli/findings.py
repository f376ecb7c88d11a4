"""The findings of ``devinterp diagnose`` as text, and the exit status that a verdict gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from rich.console import Console
from rich.markup import escape

#: Exit status by verdict: scripts can tell a run that is not to be used from one that could not be read (1, 2).
EXIT_STATUS = {"ok": 0, "note": 0, "warning": 3, "reject": 4}
_STYLES = {"ok": "green", "note": "cyan", "warning": "yellow", "reject": "red"}


def is_diagnosis(result: Any) -> bool:
    """Say whether a result of an analysis is that of ``diagnose``."""
    return isinstance(result, xr.Dataset) and {"verdict", "code", "severity"} <= set(map(str, result.variables))


def exit_status(result: xr.Dataset) -> int:
    """Return the exit status of a diagnosis: of several runs that of the worst."""
    return max(EXIT_STATUS[str(verdict)] for verdict in np.atleast_1d(result["verdict"].to_numpy()).ravel())


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
    for name, run in _runs(result):
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
    if not dims:
        yield "", result
        return
    (along,) = dims
    for number, label in enumerate(result[along].to_numpy()):
        yield f"{along} {label}", result.isel({along: number})
