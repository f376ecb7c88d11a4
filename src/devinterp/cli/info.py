"""``devinterp info`` and ``devinterp plugins``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from devinterp import overview, plugins, runs, schema
from devinterp.cli.analysis import GROUP, STORE
from devinterp.cli.run_progress import progress
from devinterp.cli.study_overview import study_overview

#: Of more runs than this the settings and arrays of each are not shown.
_MOST_SHOWN = 8

_STYLES = {
    schema.FINISHED: "green",
    schema.RUNNING: "yellow",
    schema.PENDING: "dim",
    schema.INTERRUPTED: "yellow",
    schema.DIVERGED: "red",
}


def info(store: STORE, /, *, group: GROUP = None) -> None:
    """Show what a store holds, how far its chains are, and what can be asked of it.

    Only metadata and the states of the chains are read.
    """
    from devinterp.store.reading.open import open as open_store

    console = Console()
    tree = open_store(store, group=group)
    sampled = schema.runs(tree)
    on_disk = f", {_size(_bytes_below(Path(store)))} on disk" if Path(store).exists() else ""
    count = "1 sampling run" if len(sampled) == 1 else f"{len(sampled)} sampling runs"
    console.print(f"[bold]{escape(store)}[/]: {count}{on_disk}", soft_wrap=True)
    if schema.STUDY in tree.attrs or len(sampled) > _MOST_SHOWN:
        for each in study_overview(store, tree, sampled):
            console.print(each, soft_wrap=isinstance(each, str))
        sampled = {}
    for path, run in sampled.items():
        if path != ".":
            console.rule(f"[bold]{escape(path)}[/]", align="left")
        console.print(_settings(run), _contents(run), sep="\n")
        for line in _status(run):
            console.print(line)
        for line in progress(store, run):
            console.print(line, soft_wrap=True)
    for kind in overview.KINDS:
        console.print(_questions(tree, kind))


def show_plugins() -> None:
    """List the installed plugins: distribution, version, entry point, and what each provides."""
    table = Table(title="Plugins", title_justify="left")
    for heading in ("distribution", "version", "entry point", "provides"):
        table.add_column(heading, overflow="fold")
    for row in plugins.listing():
        provides = "\n".join(f"{kind}: {', '.join(names)}" for kind, names in row.provides.items())
        shown = {
            plugins.LOADED: escape(provides) or "[dim]nothing[/]",
            plugins.BLOCKED: "[dim]left out by DEVINTERP_LOAD_PLUGINS[/]",
            plugins.BROKEN: f"[red]broken:[/] {escape(row.error or '')}",
        }[row.status]
        source = row.provider
        table.add_row(source.distribution, source.version, f"{source.entry_point} = {row.module}", shown)
    Console().print(table)


def _settings(run: xr.DataTree) -> Table:
    table = Table(title="Settings", title_justify="left", show_header=False)
    for key, value in _flat(runs.settings(run)):
        table.add_row(escape(key), escape(value))
    return table


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value if isinstance(value, str) else json.dumps(value)


def _contents(run: xr.DataTree) -> Table:
    """Return a table of the arrays; coordinates along dims are left out."""
    table = Table(title="Contents", title_justify="left")
    table.add_column("array", overflow="fold")
    table.add_column("shape")
    table.add_column("type")
    table.add_column("size", justify="right")
    for path in schema.variable_paths(run):
        array = run[path]
        if array.name in array.dims:
            continue
        shape = " × ".join(f"{dim} {length}" for dim, length in array.sizes.items())
        table.add_row(escape(path), shape, _type(array.dtype), _size(array.nbytes))
    return table


def _type(dtype: Any) -> str:
    return "string" if dtype.kind in "UTO" else str(dtype)


def _status(run: xr.DataTree) -> Iterator[Table | str]:
    """Yield a table of the steps each chain has done, a row for each restriction; then why chains diverged."""
    needed = [
        f"{schema.STATUS}/state",
        f"{schema.STATUS}/steps_done",
        f"{schema.TRACE}/{schema.STEP}",
        schema.RESTRICTION,
    ]
    if schema.missing(run, needed):
        yield "no status recorded"
        return
    status = run[schema.STATUS]
    states, done = np.asarray(status["state"]).astype(object), np.asarray(status["steps_done"])
    total = run[f"{schema.TRACE}/{schema.STEP}"].size
    names = [str(name) for name in np.asarray(run[schema.RESTRICTION])]
    table = Table(title=f"Chains: steps done of {total}", title_justify="left")
    table.add_column(schema.RESTRICTION)
    for chain in range(states.shape[1]):
        table.add_column(str(chain), justify="right")
    for name, of_chains, steps in zip(names, states, done, strict=True):
        pairs = zip(map(str, of_chains), steps, strict=True)
        cells = [f"[{_STYLES.get(state, 'default')}]{escape(state)}[/] {num}" for state, num in pairs]
        table.add_row(escape(name), *cells)
    yield table
    if "error" in status:
        errors = np.asarray(status["error"]).astype(object)
        for row, chain in np.ndindex(*errors.shape):
            if errors[row, chain]:
                yield f"[red]{escape(names[row])}, chain {chain}:[/] {escape(str(errors[row, chain]))}"


def _questions(tree: xr.DataTree, kind: str) -> Table | str:
    rows = overview.entries(tree, kind)
    if not rows:
        return f"{kind.capitalize()}: none installed"
    table = Table(title=kind.capitalize(), title_justify="left", show_header=False)
    for row in rows:
        remark = f"[yellow]needs {escape(', '.join(row.missing))}[/]" if row.missing else escape(row.summary)
        table.add_row(f"[{'dim' if row.missing else 'green'}]{row.name}[/]", remark, f"[dim]{escape(row.provider)}[/]")
    return table


def _bytes_below(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


def _size(num_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.3g} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.3g} TB"
