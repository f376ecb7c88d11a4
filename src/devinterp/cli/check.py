"""``devinterp check``: whether everything is in a store that should be, and readable."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from devinterp import schema
from devinterp.cli.analysis import GROUP, STORE


def check(store: STORE, /, *, group: GROUP = None) -> None:
    """Read all of a store and say what is damaged or missing; exit with 1 if anything is.

    Metadata, every chunk, how far each chain claims to be against what is there, and that losses are finite numbers. What is
    damaged can be sampled again with `devinterp resume --repair`, or `sample(..., repair=True)`.
    """
    from devinterp.store.integrity.verify import check as check_run
    from devinterp.store.location import resolve
    from devinterp.store.reading.open import open as open_store

    console = Console()
    tree = open_store(store, group=group)
    opened = resolve(store, read_only=True)
    found = 0
    for path in schema.runs(tree):
        where = "/".join(part for part in (group or "", "" if path == "." else path) if part)
        for damage in check_run(opened, where):
            found += 1
            console.print(
                f"[red]damaged:[/] {escape(f'{where}: ' if where else '')}{escape(str(damage))}", soft_wrap=True
            )
    if not found:
        console.print(f"[green]{escape(store)}: everything is there and readable[/]", soft_wrap=True)
    raise SystemExit(min(found, 1))
