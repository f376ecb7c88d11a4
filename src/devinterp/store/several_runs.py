"""A store of several runs side by side: its root says what they are for, and each group below it is a run of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from zarr.abc.store import Store

from devinterp.errors import StoreError
from devinterp.schema import NULL
from devinterp.store import keys
from devinterp.store.location import StoreLike, below, describe, resolve
from devinterp.store.lock import LOCK, Lock
from devinterp.store.reading.open import open as open_tree
from devinterp.store.reading.validate import walk
from devinterp.store.writing.checkpoints import RESUME, load_all
from devinterp.types import ChainKey

#: Groups of a run's store that are no part of a tree.
_OUTSIDE_TREE = (LOCK, RESUME)


@dataclass(frozen=True)
class SeveralRuns:
    """A store whose root has attributes and whose groups are runs.

    Parameters
    ----------
    location : str, path or zarr.abc.store.Store
        Of the store.
    """

    location: StoreLike

    def read_attrs(self) -> dict[str, Any]:
        """Return the attributes of the root; empty where there is no store yet.

        Raises
        ------
        StoreError
            If the root is itself a run.
        """
        try:
            attrs = keys.get_attrs(self._store(read_only=True), "")
        except FileNotFoundError:  # reading makes no directory
            return {}
        if "schema_version" in attrs:
            raise StoreError(f"{self.name} holds a single run, not several: choose another path.")
        return attrs

    def update_attrs(self, attrs: Mapping[str, Any]) -> None:
        """Change attributes of the root in one write; makes the root where there is none."""
        keys.update_attrs(self._store(), "", attrs)

    def place_of(self, run: str) -> StoreLike:
        """Return where a run is written, given the name of its group."""
        return below(self.location, run)

    def last_weights(self, run: str) -> dict[ChainKey, list[np.ndarray]]:
        """Return the sampled weights at the end of every chain of a run whose state was kept, by restriction and chain."""
        weights = {}
        for checkpoint in load_all(resolve(self.place_of(run))):
            for number, key in enumerate(checkpoint.keys):
                weights[key] = [values[number] for values in checkpoint.arrays["values"]]
        return weights

    def lock(self) -> AbstractContextManager[Lock]:
        """Return a lock to hold while runs are added."""
        return Lock(self._store(), self.name)

    def consolidate(self) -> None:
        """Write consolidated metadata of all runs into the root, and remove the checkpoints of chains that have ended."""
        store = self._store()
        root = keys.get_json(store, keys.METADATA) or {"zarr_format": 3, "node_type": "group"}
        for run in list(self._runs(store)):
            keys.delete_below(store, f"{run}/{RESUME}")
        nodes = {}
        for path, node in walk(store):
            if self._is_in_tree(path):
                node.pop("consolidated_metadata", None)
                nodes[path] = node
        if store.supports_consolidated_metadata:
            root["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": nodes}
        keys.put_json(store, keys.METADATA, root)

    def open_tree(self) -> xr.DataTree:
        """Return all runs as one tree."""
        return open_tree(self.location)

    @property
    def name(self) -> str:
        """Return what a person calls the store."""
        return describe(self.location)

    def _store(self, *, read_only: bool = False) -> Store:
        return resolve(self.location, read_only=read_only)

    def _runs(self, store: Store) -> Iterator[str]:
        """Yield the paths of all runs, null runs among them."""
        for name in keys.children(store, ""):
            for path in (name, f"{name}/{NULL}"):
                if "schema_version" in keys.get_attrs(store, path):
                    yield path

    @staticmethod
    def _is_in_tree(path: str) -> bool:
        parts = path.split("/")
        if parts[0] == LOCK:
            return False
        inner = parts[2:] if parts[1:2] == [NULL] else parts[1:]
        return not inner or inner[0] not in _OUTSIDE_TREE
