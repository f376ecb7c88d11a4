"""The store of one run and its name: everything that sampling asks of a store, so that it needs no zarr itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.storage import MemoryStore

from devinterp.errors import StoreError, first_line
from devinterp.store import keys
from devinterp.store.arrays.create import consolidate, create_run, grow_run, is_empty
from devinterp.store.arrays.layout import RunLayout
from devinterp.store.integrity.repair import discard, rewrite
from devinterp.store.integrity.verify import check
from devinterp.store.location import StoreLike, describe, is_process_memory, memory_store, resolve, temporary_store
from devinterp.store.lock import Lock, holder
from devinterp.store.owner import Owner
from devinterp.store.reading.open import open as open_tree
from devinterp.store.reading.status import Status, read_status
from devinterp.store.reading.validate import inspect
from devinterp.store.writing.checkpoints import CheckpointSlots, remove_all
from devinterp.store.writing.reopen import reopen
from devinterp.store.writing.transactions import commit
from devinterp.store.writing.writer import TraceWriter
from devinterp.types import ChainKey


@dataclass(frozen=True)
class RunStore:
    """The store of one run, and the name it has in messages.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    name : str
        What a person calls it: a path, a URL, or ``"memory"``.
    in_memory : bool, default: False
        Whether the run is only wanted in memory: `open_tree` loads it, and the store is not kept.
    """

    store: Store
    name: str
    in_memory: bool = False

    @classmethod
    def at(cls, location: StoreLike, *, storage_options: Mapping[str, Any] | None = None) -> RunStore:
        """Return the store at a path or URL, or around a zarr store; see `devinterp.store.location.resolve`."""
        return cls(resolve(location, storage_options=storage_options), describe(location))

    @classmethod
    def memory(cls) -> RunStore:
        """Return a new store in the memory of this process."""
        return cls(memory_store(), "memory", in_memory=True)

    @classmethod
    @contextmanager
    def temporary(cls) -> Iterator[RunStore]:
        """Give a new store in a directory that other processes can write to, and remove it when the block ends."""
        with temporary_store() as store:
            yield cls(store, "memory", in_memory=True)

    @property
    def is_shareable(self) -> bool:
        """Whether other processes can write to this store, which they cannot when it is memory of this one."""
        return not is_process_memory(self.store)

    def is_empty(self) -> bool:
        """Say whether the store holds nothing, or only what a killed process left of creating a run."""
        return is_empty(self.store)

    def inspect(self) -> None:
        """Raise `StoreError` unless everything in the store can be opened and read safely."""
        inspect(self.store)

    def read_attrs(self, group: str = "") -> dict[str, Any]:
        """Return the attributes of a group, empty where there is none; the root's are ``config`` and ``provenance``."""
        return keys.get_attrs(self.store, group)

    def read_status(self, chains: Collection[ChainKey] | None = None) -> Status:
        """Return how far each chain is; of all, or of those given, while others seem not to have begun."""
        return read_status(self.store, chains=chains)

    def pending(self, num_steps: int) -> dict[ChainKey, int]:
        """Return the stored steps of every chain that is not at its end; see `Status.pending`."""
        return self.read_status().pending(num_steps)

    def contains(self, path: str) -> bool:
        """Say whether there is a group or an array at a path."""
        return keys.get(self.store, keys.metadata_key(path)) is not None

    def read_array(self, path: str) -> np.ndarray:
        """Return all values of the array at a path.

        Raises
        ------
        StoreError
            If there is none that can be read.
        """
        try:
            return np.asarray(zarr.open_array(self.store, path=path, mode="r", zarr_format=3)[...])
        except Exception as error:  # zarr raises errors of many kinds
            raise StoreError(
                f"{self.name} has no readable `{path}` ({first_line(error)}): `devinterp check` says what else is damaged, and "
                "`repair=True` measures it again."
            ) from error

    def key_sizes(self) -> dict[str, int]:
        """Return the size in bytes of everything in the store, by its key: ``trace/loss/c/0/0/0/0/0``."""
        return keys.sizes(self.store)

    def open_tree(self) -> xr.DataTree:
        """Return the run as a tree: lazy, or loaded where it is only wanted in memory."""
        return open_tree(self.store, chunks=None).load() if self.in_memory else open_tree(self.store)

    def lock(self) -> AbstractContextManager[Lock | None]:
        """Return a lock to hold while writing; one that gives None where nobody else can reach the store."""
        if self.in_memory and isinstance(self.store, MemoryStore):
            return nullcontext()
        return Lock(self.store, self.name)

    def lock_holder(self) -> Owner | None:
        """Return which process holds the store, None where none does."""
        return holder(self.store)

    def remove_leftovers(self) -> None:
        """Remove unfinished files of a killed writer; call it only while holding the lock."""
        keys.remove_leftovers(self.store)

    def create(self, layout: RunLayout, attrs: Mapping[str, Any]) -> None:
        """Create every group and array of a run, with its fixed data; see `devinterp.store.arrays.create.create_run`."""
        create_run(self.store, layout, attrs)

    def grow(self, layout: RunLayout, attrs: Mapping[str, Any]) -> None:
        """Make room for more of a run; see `devinterp.store.arrays.create.grow_run`."""
        grow_run(self.store, layout, attrs)

    def consolidate(self) -> None:
        """Write consolidated metadata again, with the null run; see `devinterp.store.arrays.create.consolidate`."""
        consolidate(self.store, with_null=True)

    def reopen(self, chains: Iterable[ChainKey], *, from_start: bool) -> None:
        """Mark chains as not at their end; from their start, or from the steps that they have."""
        reopen(self.store, chains, from_start=from_start)

    def discard_damaged(self) -> set[str]:
        """Check all data and remove what is damaged; its chains are sampled anew.

        Returns
        -------
        set of str
            Paths of damaged arrays that belong to no chain, to be written by `rewrite`.
        """
        return discard(self.store, list(check(self.store)))

    def rewrite(self, layout: RunLayout, paths: Iterable[str]) -> None:
        """Write the fixed data of some arrays again."""
        rewrite(self.store, layout, paths)

    def writer(self) -> TraceWriter:
        """Return a writer of draws; a context manager."""
        return TraceWriter(zarr.open_group(self.store, mode="r+", zarr_format=3))

    def update_attrs(self, attrs: Mapping[str, Any], group: str = "") -> None:
        """Change some attributes of a group, in one write."""
        keys.update_attrs(self.store, group, attrs)

    def checkpoint_slots(self, restrictions: Sequence[int], chains: Sequence[int]) -> CheckpointSlots:
        """Return where checkpoints of chains that run together are kept: `chains` of each of the restrictions."""
        return CheckpointSlots(self.store, restrictions, chains)

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints of all chains."""
        remove_all(self.store)

    def commit(self, message: str) -> None:
        """Commit what was written, and see what others committed, where the store is one that collects writes."""
        commit(self.store, message)
