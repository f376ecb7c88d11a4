"""Stores that collect writes until they are committed, such as Icechunk's."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from zarr.abc.store import Store


@runtime_checkable
class Committing(Protocol):
    """A zarr store whose writes become visible and durable together."""

    def commit(self, message: str) -> object:
        """Commit what was written since the last commit, and go on from the newest state there is."""


def commit(store: Store, message: str) -> None:
    """Commit what was written, if the store has to be told."""
    if isinstance(store, Committing):
        store.commit(message)
