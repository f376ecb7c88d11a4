"""Stores whose writes become visible when they are committed, such as Icechunk's."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from zarr.abc.store import Store


@runtime_checkable
class Committing(Protocol):
    """A zarr store whose writes become visible and durable together."""

    def commit(self, message: str) -> object:
        """Commit what was written since the last commit, and continue from the newest committed state."""


def commit(store: Store, message: str) -> None:
    """Commit what was written, where the store is one of `Committing`; do nothing otherwise."""
    if isinstance(store, Committing):
        store.commit(message)
