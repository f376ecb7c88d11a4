"""The store of a study: a table of its runs, each of which is a complete run in a group of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import xarray as xr
from zarr.abc.store import Store
from zarr.storage import LocalStore

from devinterp import schema
from devinterp.errors import StoreError
from devinterp.store import keys
from devinterp.store.arrays.create import is_empty
from devinterp.store.location import StoreLike, below, describe, resolve
from devinterp.store.lock import Lock
from devinterp.store.reading.open import open as open_tree
from devinterp.store.reading.status import Status, read_status
from devinterp.store.reading.study_table import FAILED, StudyTable, failures, read_table


@dataclass(frozen=True)
class StudyStore:
    """The store of a study.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    location : str, path or zarr.abc.store.Store
        Where it is.
    storage_options : mapping or None
        For fsspec.
    """

    store: Store
    location: StoreLike
    storage_options: Mapping[str, Any] | None = None

    @classmethod
    def at(cls, location: StoreLike, *, storage_options: Mapping[str, Any] | None = None) -> StudyStore:
        """Return the store at a path or URL; see `devinterp.store.location.resolve`.

        Raises
        ------
        StoreError
            If something else than a study is there.
        """
        below(location, "run")  # not every store can hold several runs
        study = cls(resolve(location, storage_options=storage_options), location, storage_options)
        if study.table() is None and not is_empty(study.store):
            raise StoreError(f"{study.name} is not empty and holds no study: choose another path.")
        return study

    @property
    def name(self) -> str:
        """What a person calls the store."""
        return describe(self.location)

    def place(self, run: str) -> StoreLike:
        """Return where a run is stored."""
        return below(self.location, run)

    def lock(self) -> Lock:
        """Return a lock to hold while the study is written."""
        return Lock(self.store, self.name)

    def table(self) -> StudyTable | None:
        """Return which runs belong to the study; None where the store is new."""
        return read_table(self.store)

    def write_table(self, table: StudyTable) -> None:
        """Set which runs belong to the study. What the root says of their metadata goes, because it is complete no more."""
        attributes = {**keys.get_attrs(self.store, ""), schema.STUDY: json.dumps(table.to_json())}
        root = {**keys.NEW_GROUP, "attributes": attributes}
        keys.put_json(self.store, keys.METADATA, root)

    def attrs(self, run: str) -> dict[str, Any]:
        """Return the attributes of a run, empty where it has not begun."""
        return keys.get_attrs(self.store, run)

    def status(self, run: str) -> Status:
        """Return how far the chains of a run are."""
        return read_status(self.store, run)

    def failures(self) -> dict[str, dict[str, Any]]:
        """Return what is recorded of the runs that failed, by their names."""
        return failures(self.store)

    def record_failure(self, run: str, record: Mapping[str, Any]) -> None:
        """Record that a run failed, beside it."""
        keys.update_attrs(self.store, FAILED, {})
        keys.put_json(
            self.store,
            keys.metadata_key(f"{FAILED}/{run}"),
            {**keys.NEW_GROUP, "attributes": dict(record)},
        )

    def clear_failure(self, run: str) -> None:
        """Forget that a run failed."""
        keys.delete_below(self.store, f"{FAILED}/{run}")

    def consolidate(self) -> None:
        """Write the metadata of all runs into the root, so that xarray alone opens the study fast."""
        table = self.table()
        assert table is not None
        root = keys.get_json(self.store, keys.METADATA) or {}
        # Failures stand in the root, too: whoever has the tree, and not the store, sees that runs are missing.
        failed = {name: record.get("error", "") for name, record in self.failures().items() if name in table.runs}
        table = StudyTable(table.dims, table.runs, failed)
        attributes = {**root.get("attributes", {}), schema.STUDY: json.dumps(table.to_json())}
        nodes = dict(self._nodes(table)) if self.store.supports_consolidated_metadata else {}
        consolidated = {"kind": "inline", "must_understand": False, "metadata": nodes}
        keys.put_json(
            self.store,
            keys.METADATA,
            {**keys.NEW_GROUP, "attributes": attributes, "consolidated_metadata": consolidated},
        )

    def _nodes(self, table: StudyTable) -> Iterator[tuple[str, Any]]:
        """Yield the metadata of everything in the runs, from each run's own consolidated metadata."""
        names = list(table.runs)
        contents = keys.get_many(self.store, [keys.metadata_key(name) for name in names])
        for name, content in zip(names, contents, strict=True):
            node = json.loads(content) if content is not None else {}
            if not schema.is_run_attrs(node.get("attributes", {})):
                continue
            inside = (node.pop("consolidated_metadata", None) or {}).get("metadata", {})
            yield name, node
            yield from ((f"{name}/{path}", each) for path, each in inside.items())

    def open_tree(self) -> xr.DataTree:
        """Return the study as a lazy tree; without runs where none has begun."""
        return open_tree(self.location, storage_options=self.storage_options)

    def remove_leftovers(self) -> None:
        """Remove unfinished files of a killed writer from the root; call it only while holding the lock."""
        if isinstance(self.store, LocalStore):
            for path in self.store.root.glob("*"):
                if path.is_file() and keys.is_leftover(path.name):
                    path.unlink(missing_ok=True)
