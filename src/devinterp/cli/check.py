"""``devinterp check``: whether everything is in a store that should be, and readable."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from devinterp import schema
from devinterp.cli.analysis import GROUP, STORE


def check(store: STORE, /, *, group: GROUP = None) -> None:
    """Read all of a store and say what is damaged or missing; exit with 1 if anything is.

    Checked are the metadata, every chunk, that the steps each chain has recorded are there, and that losses are finite. What
    is damaged can be sampled again with `devinterp resume --repair`, or `sample(..., repair=True)`.
    """
    from devinterp.store.integrity.verify import check as check_run
    from devinterp.store.location import resolve
    from devinterp.store.reading.open import open as open_store

    console = Console()
    tree = open_store(store, group=group)
    opened = resolve(store, read_only=True)
    num_damaged = 0
    runs = schema.runs(tree)
    below = [f"{path}/{schema.NULL}".removeprefix("./") for path, each in runs.items() if schema.NULL in each.children]
    for path in (*runs, *below):
        run = "/".join(part for part in (group or "", "" if path == "." else path) if part)
        for damage in check_run(opened, run):
            num_damaged += 1
            console.print(f"[red]damaged:[/] {escape(f'{run}: ' if run else '')}{escape(str(damage))}", soft_wrap=True)
    if not num_damaged:
        console.print(f"[green]{escape(store)}: everything is there and readable[/]", soft_wrap=True)
    raise SystemExit(min(num_damaged, 1))
