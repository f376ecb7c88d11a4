"""One process at a time writes a run: a lock in the store, with its owner and a heartbeat."""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from zarr.abc.store import Store

from devinterp.errors import StoreError
from devinterp.store import keys
from devinterp.store.owner import HELD_TOKENS, Owner, start_time_of

#: A group of the store without arrays; its attributes are the lock. It is no part of the tree.
LOCK = "lock"
_KEY = keys.metadata_key(LOCK)
#: Seconds between heartbeats.
INTERVAL = 10.0
#: Seconds until a new lock is read again, where the store may have let several callers create it.
_SETTLE = 0.3


class Lock:
    """Hold a store while a block runs, and write a heartbeat into it.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    name : str
        What it is called in messages.

    Raises
    ------
    StoreError
        On entering, if a process that may be alive holds the store; the message names it.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._name = store, name
        self._progress: Callable[[], Mapping[str, Any]] = dict
        now, pid = time.time(), os.getpid()
        self.owner = Owner(uuid.uuid4().hex, platform.node(), pid, start_time_of(pid), now, now)
        self._stop = threading.Event()
        self._lost: StoreError | None = None
        self._thread = threading.Thread(target=self._beat_until_stopped, name="devinterp-lock", daemon=True)

    def __enter__(self) -> Lock:
        HELD_TOKENS.add(self.owner.token)
        try:
            self._acquire()
        except BaseException:
            HELD_TOKENS.discard(self.owner.token)
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        HELD_TOKENS.discard(self.owner.token)
        # A store that is gone, or another's by now, is left alone; a store that cannot be written is the writer's error.
        with suppress(Exception):
            if self._is_ours(holder(self._store)):
                keys.delete_below(self._store, LOCK)

    def check(self) -> None:
        """Raise `StoreError` if a heartbeat, or `verify`, has seen that the lock is lost; reads nothing."""
        if self._lost is not None:
            raise self._lost

    def verify(self) -> None:
        """Raise `StoreError` if the lock is lost: the store was deleted, or another process holds it."""
        owner = holder(self._store)
        if owner is None:
            self._lost = StoreError(f"{self._name} was deleted, or emptied, while it was written. Sample again.")
        elif not self._is_ours(owner):
            self._lost = StoreError(f"{self._name} was taken over by {owner}, which took this process for dead.")
        self.check()

    def report(self, progress: Callable[[], Mapping[str, Any]]) -> None:
        """Write the JSON-able values that a function returns with each heartbeat from now on."""
        self._progress = progress

    def beat(self) -> None:
        """Write a heartbeat now."""
        self.verify()
        keys.put(self._store, _KEY, self._entry())

    def _beat_until_stopped(self) -> None:
        while not self._stop.wait(INTERVAL):
            try:
                self.beat()
            except StoreError:
                return  # kept in `_lost`; the sampling thread raises it
            except Exception:  # the store is away for a moment; the writer finds out if it stays away
                continue

    def _acquire(self) -> None:
        owner = self._create(_KEY)
        while owner is None and keys.get(self._store, _KEY) is None:  # its owner ended at this very moment
            owner = self._create(_KEY)
        if self._is_ours(owner):
            return
        if owner is not None and not owner.is_dead:
            raise StoreError(f"{self._name} is being written by {owner}: wait for it, or end it, then run again.")
        self._replace(_KEY, owner)
        owner = self._read_settled(_KEY)
        if not self._is_ours(owner):
            raise self._taken_by(owner)

    def _create(self, key: str) -> Owner | None:
        """Put our entry where there is none; return the owner whose entry is there then."""
        keys.put_new(self._store, key, self._entry())
        return self._read_settled(key)

    def _replace(self, key: str, dead: Owner | None) -> None:
        """Put our entry in place of a dead owner's, which only the holder of the claim on it may do.

        The entry is read again under the claim: whoever replaced it before us did so before giving the claim up. A claim
        whose owner died is replaced in the same way.
        """
        claim = f"{LOCK}/claims/{'unreadable' if dead is None else dead.token}"
        if claim == key:
            raise StoreError(f"{self._name} has a damaged lock: end what writes it, delete `{LOCK}/` in it, run again.")
        claimant = self._create(claim)
        if not self._is_ours(claimant):
            if claimant is not None and not claimant.is_dead:
                raise StoreError(f"{self._name} is being taken over by {claimant}: wait for it, then run again.")
            self._replace(claim, claimant)
        owner = _read_owner(self._store, key)
        try:
            if (owner and owner.token) != (dead and dead.token):
                raise self._taken_by(owner)
            keys.put(self._store, key, self._entry())
        finally:
            keys.delete(self._store, claim)

    def _taken_by(self, owner: Owner | None) -> StoreError:
        return StoreError(f"{self._name} was taken by {owner or 'another process'} at the same moment: run again.")

    def _is_ours(self, owner: Owner | None) -> bool:
        return owner is not None and owner.token == self.owner.token

    def _read_settled(self, key: str) -> Owner | None:
        """Return whose entry a key holds, read again after a moment where the store cannot create exclusively."""
        owner = _read_owner(self._store, key)
        if self._is_ours(owner) and not _is_exclusive(self._store):
            time.sleep(_SETTLE)
            return _read_owner(self._store, key)
        return owner

    def _entry(self) -> bytes:
        attributes = self.owner.record(self._progress())
        return json.dumps({**keys.NEW_GROUP, "attributes": attributes}).encode()


def holder(store: Store) -> Owner | None:
    """Return the process that holds a store, dead or alive; None where none does or the lock cannot be read."""
    return _read_owner(store, _KEY)


def _read_owner(store: Store, key: str) -> Owner | None:
    record = (keys.get_json(store, key) or {}).get("attributes")
    return Owner.from_record(record) if isinstance(record, dict) else None


def _is_exclusive(store: Store) -> bool:
    """Say whether a store is known to create a key for one caller only."""
    return type(store).__name__ in ("LocalStore", "MemoryStore", "ObjectStore")
