"""``devinterp replay``: a stored run made again, and compared."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import xarray as xr
from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from devinterp.analyses.llc import compute_llc
from devinterp.cli.analysis import STORE
from devinterp.cli.sampling import run_named
from devinterp.errors import BrokenChainsError
from devinterp.runs import only
from devinterp.studies.plan_file import PLAN
from devinterp.studies.replay import (
    ArrayComparison,
    changed_environment,
    changed_inputs,
    compare,
    replay_planned,
    source_of,
)


def replay(
    store: STORE,
    /,
    *,
    run: Annotated[str | None, Parameter(help="Path of one run in a study.")] = None,
    output_path: Annotated[
        Path | None, Parameter(name=["--output-path", "-o"], help="Keep the new run here; default: only compare.")
    ] = None,
) -> None:
    """Make a run again from what its store says of it: arguments, sources, seeds; and compare the two, array by array.

    Says what cannot be had again, and what differs between then and now. Exit status: 0 where all arrays are the same to the
    last bit, 1 where they are not, 2 where the run cannot be made.
    """
    from devinterp.store.reading.open import open as open_store

    console = Console()
    stored = only(open_store(store, group=run), name="replay")
    for line in changed_environment(stored):
        console.print(f"[yellow]changed:[/] {escape(line)}", soft_wrap=True)
    command, note = source_of(stored)
    with tempfile.TemporaryDirectory(prefix="devinterp-") as folder:
        place = output_path or Path(folder) / "run"
        again = replay_planned(stored, note, place) if command == PLAN else _sampled_again(console, note, place)
        for line in changed_inputs(stored, again):
            console.print(f"[red]not had again:[/] {escape(line)}", soft_wrap=True)
        comparisons = list(compare(stored, again))
        console.print(_table(comparisons))
        _show_llc(console, stored, again)
    is_equal = all(each.is_equal for each in comparisons)
    verdict = "[green]the same to the last bit[/]" if is_equal else "[yellow]not the same[/]"
    console.print(f"{escape(store)}: {verdict}", soft_wrap=True)
    raise SystemExit(0 if is_equal else 1)


def _sampled_again(console: Console, note: Any, place: Path) -> xr.DataTree:
    arguments = {name: value for name, value in note.items() if name != "settings"}
    result = run_named(console, place, {**note["settings"], "progress": False}, **arguments)
    assert isinstance(result, xr.DataTree)
    return result


def _table(comparisons: list[ArrayComparison]) -> Table:
    table = Table("array", "the same", title="Made again", title_justify="left")
    table.add_column("largest difference", justify="right")
    table.add_column("remark")
    for each in comparisons:
        same = "[green]yes[/]" if each.is_equal else "[yellow]no[/]"
        largest = "" if np.isnan(each.largest) else f"{each.largest:.3g}"
        table.add_row(escape(each.path), same, largest, escape(each.remark))
    return table


def _show_llc(console: Console, stored: xr.DataTree, again: xr.DataTree) -> None:
    """Print both learning coefficients with their errors, where they can be had."""
    for name, tree in (("stored", stored), ("again", again)):
        try:
            result = compute_llc(tree).compute()
        except BrokenChainsError as error:
            console.print(f"{name}: {escape(str(error))}", soft_wrap=True)
            continue
        prefix = "paired_llc" if "paired_llc_mean" in result else "llc"
        means, errors = (np.atleast_1d(result[f"{prefix}_{each}"]).ravel()[:6] for each in ("mean", "se"))
        shown = ", ".join(f"{mean:.6g} ± {se:.2g}" for mean, se in zip(means, errors, strict=True))
        console.print(f"learning coefficient, {name}: {shown}", highlight=False, soft_wrap=True)
