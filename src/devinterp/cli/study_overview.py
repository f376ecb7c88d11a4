"""A study in ``devinterp info``: what varies in it, and one row for each run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr
from rich.markup import escape
from rich.table import Table

from devinterp import runs, schema
from devinterp.cli.run_progress import how_to_go_on


def study_overview(store: str, tree: xr.DataTree, sampled: Mapping[str, xr.DataTree]) -> Iterator[Table | str]:
    """Yield what varies in a study, a table of its runs and how far each is, and how to go on.

    Parameters
    ----------
    store : str
        Path or URL of the store.
    tree : xarray.DataTree
        The study, or a tree of many runs.
    sampled : mapping of str to xarray.DataTree
        Its runs, by their paths.

    Yields
    ------
    str or rich.table.Table
        What rich prints.
    """
    from devinterp.store.location import resolve
    from devinterp.store.lock import holder
    from devinterp.store.reading.study_table import table_of

    table = table_of(tree.attrs[schema.STUDY]) if schema.STUDY in tree.attrs else None
    labels = dict(table.runs) if table else {path: {} for path in sampled}
    if table:
        for names in table.dims.values():
            for name in names:
                values = list(dict.fromkeys(each[name] for each in labels.values()))
                shown = ", ".join(map(str, values[:12])) + (f", ... ({len(values)})" if len(values) > 12 else "")
                yield f"[bold]{escape(name)}[/]: {escape(shown)}"
    rows = {path: _state(sampled.get(path), (table.failed if table else {}).get(path)) for path in labels}
    yield _table(rows)
    undone = [path for path, (word, _, _) in rows.items() if word not in ("finished", "diverged")]
    yield f"{len(rows) - len(undone)} of {len(rows)} runs are at their end"
    owner = holder(resolve(store, read_only=True))
    if owner is not None and not owner.is_dead:
        yield f"[yellow]at work:[/] {escape(str(owner))}"
    elif undone and sampled:
        yield f"[yellow]incomplete:[/] {how_to_go_on(store, next(iter(sampled.values())))}"
    common = _common_settings(sampled)
    if common:
        settings = Table(title="Settings of all runs", title_justify="left", show_header=False)
        for key, value in common.items():
            settings.add_row(escape(key), escape(str(value)))
        yield settings


_STYLES = {"finished": "green", "diverged": "red", "failed": "red", "not begun": "dim"}


def _table(rows: Mapping[str, tuple[str, str, str]]) -> Table:
    table = Table("run", "state", title="Runs", title_justify="left")
    table.add_column("steps", justify="right")
    table.add_column("remark", overflow="fold")
    for path, (word, steps, remark) in rows.items():
        table.add_row(escape(path), f"[{_STYLES.get(word, 'yellow')}]{word}[/]", steps, escape(remark))
    return table


def _state(run: xr.DataTree | None, failed: str | None) -> tuple[str, str, str]:
    """Return the state of a run in a word, its steps done of all, and why it failed or how many chains diverged."""
    if run is None:
        return ("failed" if failed else "not begun"), "", failed or ""
    states = np.asarray(run[f"{schema.STATUS}/state"]).astype(object)
    done, total = np.asarray(run[f"{schema.STATUS}/steps_done"]).astype(int), run[f"{schema.TRACE}/{schema.STEP}"].size
    steps = f"{int(done.sum()):,} of {total * states.size:,}"
    diverged = int((states == schema.DIVERGED).sum())
    remark = failed or (f"{diverged} of {states.size} chains diverged" if diverged else "")
    if failed:
        return "failed", steps, remark
    if ((states == schema.FINISHED) | (states == schema.DIVERGED)).all():
        return ("diverged" if diverged else "finished"), steps, remark
    return "incomplete", steps, remark


def _common_settings(sampled: Mapping[str, xr.DataTree]) -> dict[str, Any]:
    configs = [runs.settings(run) for run in sampled.values()]
    first = configs[0] if configs else {}
    return {key: value for key, value in first.items() if all(each.get(key) == value for each in configs)}
