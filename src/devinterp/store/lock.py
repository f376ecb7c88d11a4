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
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from zarr.abc.store import Store

from devinterp.errors import StoreError
from devinterp.store import keys as raw

#: A group of the store without arrays; its attributes are the lock. It is no part of the tree.
LOCK = "lock"
#: Seconds between heartbeats, and how old the last may be before an owner on another host counts as dead.
INTERVAL, STALE = 10.0, 120.0
#: Seconds after which a lock is read again where the store cannot create a key exclusively.
_SETTLE = 0.3


@dataclass(frozen=True)
class Owner:
    """Who holds a store.

    Parameters
    ----------
    token : str
        Different for every lock ever taken.
    host : str
        Name of the machine.
    pid, started : int
        Process, and when it began (clock ticks since boot), because process numbers are used again; 0 where unknown.
    since, heartbeat : float
        Seconds since 1970.
    progress : dict
        What the owner says of how far it is.
    """

    token: str
    host: str
    pid: int
    started: int
    since: float
    heartbeat: float
    progress: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_dead(self) -> bool:
        """Whether it is certain enough that this process is gone: known on this machine, by its heartbeat on others."""
        if self.host == platform.node():
            if self.pid == os.getpid():
                return self.token not in _HELD  # of one that had this number before
            return not _is_alive(self.pid) or (self.started != 0 and _started(self.pid) != self.started)
        return time.time() - self.heartbeat > STALE

    def __str__(self) -> str:
        ago = max(0, round(time.time() - self.heartbeat))
        return f"process {self.pid} on {self.host} (last sign of life {ago} s ago)"


#: Tokens of the locks that this process holds.
_HELD: set[str] = set()


class Lock:
    """Holds a store while the block runs, and keeps its heartbeat going.

    Parameters
    ----------
    store : zarr.abc.store.Store
        The store.
    where : str
        Its name, for messages.
    progress : callable, optional
        Returns JSON-able values to put beside each heartbeat.

    Raises
    ------
    StoreError
        On entering, if a process that may be alive holds the store; the message names it.
    """

    def __init__(self, store: Store, where: str, *, progress: Callable[[], Mapping[str, Any]] | None = None) -> None:
        self._store, self._where, self._progress = store, where, progress or dict
        now, pid = time.time(), os.getpid()
        self.owner = Owner(uuid.uuid4().hex, platform.node(), pid, _started(pid), now, now)
        self._stop = threading.Event()
        self._lost: StoreError | None = None
        self._thread = threading.Thread(target=self._beat, name="devinterp-lock", daemon=True)

    def __enter__(self) -> Lock:
        _HELD.add(self.owner.token)
        try:
            self._acquire()
        except BaseException:
            _HELD.discard(self.owner.token)
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        _HELD.discard(self.owner.token)
        # A store that is gone, or another's by now, is left alone; that one cannot be written is known from elsewhere.
        with suppress(Exception):
            if self._is_me(holder(self._store)):
                raw.delete_below(self._store, LOCK)

    def check(self) -> None:
        """Raise if the lock was lost since: the store was deleted, or another process took it."""
        if self._lost is not None:
            raise self._lost

    def verify(self) -> None:
        """Raise if the lock is lost now; reads the store."""
        found = holder(self._store)
        if found is None:
            self._lost = StoreError(f"{self._where} was deleted, or emptied, while it was written. Sample again.")
        elif found.token != self.owner.token:
            self._lost = StoreError(f"{self._where} was taken over by {found}, which took this process for dead.")
        self.check()

    def tell(self, progress: Callable[[], Mapping[str, Any]]) -> None:
        """Put what a function returns beside each heartbeat from now on."""
        self._progress = progress

    def beat(self) -> None:
        """Write a heartbeat now."""
        self.verify()
        raw.put(self._store, _KEY, self._entry())

    def _acquire(self) -> None:
        found = self._create(_KEY)
        while found is None and raw.get(self._store, _KEY) is None:  # its owner ended at this very moment
            found = self._create(_KEY)
        if self._is_me(found):
            return
        if found is not None and not found.is_dead:
            raise StoreError(f"{self._where} is being written by {found}: wait for it, or end it, then run again.")
        self._replace(_KEY, found)
        found = self._settled(_KEY)
        if not self._is_me(found):
            raise StoreError(f"{self._where} was taken by {found or 'another process'} at the same moment: run again.")

    def _create(self, key: str) -> Owner | None:
        """Put our entry where there is none; returns the owner whose entry is there then."""
        raw.put_new(self._store, key, self._entry())
        return self._settled(key)

    def _replace(self, key: str, dead: Owner | None) -> None:
        """Put our entry in place of a dead owner's, which only the holder of the claim on it may do.

        The entry is read again under the claim: whoever replaced it before us did so before giving the claim up. A claim
        whose owner died is replaced in the same way.
        """
        claim = f"{LOCK}/claims/{'unreadable' if dead is None else dead.token}"
        if claim == key:
            raise StoreError(
                f"{self._where} has a damaged lock: end what writes it, delete `{LOCK}/` in it, run again."
            )
        claimant = self._create(claim)
        if not self._is_me(claimant):
            if claimant is not None and not claimant.is_dead:
                raise StoreError(f"{self._where} is being taken over by {claimant}: wait for it, then run again.")
            self._replace(claim, claimant)
        found = _owner(self._store, key)
        try:
            if (found and found.token) != (dead and dead.token):
                raise StoreError(
                    f"{self._where} was taken by {found or 'another process'} at the same moment: run again."
                )
            raw.put(self._store, key, self._entry())
        finally:
            raw.delete(self._store, claim)

    def _is_me(self, found: Owner | None) -> bool:
        return found is not None and found.token == self.owner.token

    def _settled(self, key: str) -> Owner | None:
        """Return whose entry a key holds, read again after a moment where the store cannot create exclusively."""
        found = _owner(self._store, key)
        if self._is_me(found) and not _is_exclusive(self._store):
            time.sleep(_SETTLE)
            return _owner(self._store, key)
        return found

    def _beat(self) -> None:
        while not self._stop.wait(INTERVAL):
            try:
                self.beat()
            except StoreError:
                return  # kept in `_lost`; the sampling thread raises it
            except Exception:  # the store is away for a moment; the writer finds out if it stays away
                continue

    def _entry(self) -> bytes:
        attributes = {**asdict(self.owner), "heartbeat": time.time(), "progress": dict(self._progress())}
        return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}).encode()


_KEY = f"{LOCK}/{raw.METADATA}"


def holder(store: Store) -> Owner | None:
    """Return who holds a store, dead or alive; None where nobody does or the lock cannot be read."""
    return _owner(store, _KEY)


def _owner(store: Store, key: str) -> Owner | None:
    entry = raw.get_json(store, key)
    try:
        found = {} if entry is None else entry["attributes"]
        return Owner(
            str(found["token"]),
            str(found["host"]),
            int(found["pid"]),
            int(found["started"]),
            float(found["since"]),
            float(found["heartbeat"]),
            dict(found["progress"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _is_exclusive(store: Store) -> bool:
    """Say whether a store is known to create a key for one caller only."""
    return type(store).__name__ in ("LocalStore", "MemoryStore", "ObjectStore")


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    try:
        # A zombie is dead, though its number is still taken.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True


def _started(pid: int) -> int:
    """Return when a process began, in clock ticks since boot; 0 where that cannot be known."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0
