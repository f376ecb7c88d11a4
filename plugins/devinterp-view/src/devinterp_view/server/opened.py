"""The store that is looked at: its runs, each opened when it is asked for, and again when its status has changed."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.errors import DevinterpError, InvalidInputError, StoreError
from devinterp.store import keys
from devinterp.store.location import StoreLike, below, describe, resolve
from devinterp.store.reading.open import open as open_store
from devinterp.store.reading.status import read_status
from devinterp.store.reading.study_table import failures, table_of
from devinterp_view.subject import Subject

#: The path of a run that is the store itself.
ITSELF = "."
#: Seconds in which a store is not asked again whether it has changed.
_FRESH = 0.5
#: Runs that are kept open.
_MAX_OPEN = 8


class StoreGoneError(DevinterpError):
    """The store that was there is there no more."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A run as it was when it was opened.

    Parameters
    ----------
    path : str
        Which run of the store.
    subject : Subject
        The run, read lazily.
    stamp : str
        Of its status: another one where anything has changed.
    """

    path: str
    subject: Subject
    stamp: str


@dataclass(frozen=True, slots=True)
class RunTable:
    """The runs of a store.

    Parameters
    ----------
    runs : mapping of str to mapping
        By path, the labels that tell it apart.
    failed : mapping of str to str
        Why runs failed.
    left_out : int
        How many have names that no group of a store can have.
    """

    runs: Mapping[str, Mapping[str, Any]]
    failed: Mapping[str, str] = field(default_factory=dict)
    left_out: int = 0


class Library:
    """A store, asked from several threads; nothing is ever written to it.

    Parameters
    ----------
    location : str, path or zarr.abc.store.Store
        Of the store.
    group : str, optional
        Path of a sub-tree.
    """

    def __init__(self, location: StoreLike, group: str | None = None) -> None:
        self._location = location if group is None else below(location, group)
        self.name = describe(location) if group is None else f"{describe(location)}, {group}"
        self._open: OrderedDict[str, tuple[Opened, float]] = OrderedDict()
        self._table: tuple[str, RunTable, float] | None = None
        self._lock = threading.Lock()
        self._lost = 0.0  # when the store was last not there: what was seen of it before is not fresh

    def table(self) -> RunTable:
        """Return the runs of the store.

        Raises
        ------
        StoreGoneError
            If the store is there no more.
        StoreError
            If it holds no run.
        """
        with self._lock:
            if self._table is not None and self._is_fresh(self._table[2]):
                return self._table[1]
            stamp = hashlib.sha256(self._metadata(self._location)).hexdigest()
            known = self._table[1] if self._table is not None and self._table[0] == stamp else None
            self._table = (stamp, known or self._read_table(), time.monotonic())
            return self._table[1]

    def _read_table(self) -> RunTable:
        store = resolve(self._location, read_only=True)
        attrs = keys.get_first_attrs(store)
        if schema.is_run_attrs(attrs):
            return RunTable({ITSELF: {}})
        if schema.STUDY in attrs:
            table = table_of(attrs[schema.STUDY])
            usable = {path: labels for path, labels in table.runs.items() if _is_usable(path)}
            failed = {path: str(note.get("error", "")) for path, note in failures(store).items()}
            return RunTable(usable, {**table.failed, **failed}, len(table.runs) - len(usable))
        paths = schema.runs(open_store(self._location, chunks=None))
        return RunTable({path: {} for path in paths if path == ITSELF or _is_usable(path)})

    def state(self, path: str) -> dict[str, Any]:
        """Return how far a run is, from its status alone.

        Returns
        -------
        dict
            ``state``, a word; ``steps`` done; ``has_begun``, whether anything is stored; ``is_final``, whether it is at its
            end.
        """
        store = resolve(self._place(path), read_only=True)
        error = self.table().failed.get(path)
        try:
            has_begun = path == ITSELF or schema.is_run_attrs(keys.get_first_attrs(store))
        except FileNotFoundError:
            has_begun = False
        if not has_begun:
            word = "not begun" if error is None else "failed"
            return {"state": word, "steps": "", "is_final": error is not None, "has_begun": False}
        try:
            status = read_status(store)
        except StoreError:
            return {"state": "unknown", "steps": "", "is_final": True, "has_begun": True}
        state = _state(status.state, status.steps_done) | {"has_begun": True}
        return state if error is None else state | {"state": "failed", "is_final": True}

    def open(self, path: str) -> Opened:
        """Return a run, opened anew where it has changed.

        Raises
        ------
        InvalidInputError
            If the store has no such run.
        StoreGoneError
            If the store is there no more.
        StoreError
            If the run cannot be read.
        """
        with self._lock:
            opened, checked = self._open.get(path, (None, 0.0))
        if opened is not None and self._is_fresh(checked):
            return opened
        stamp = self.stamp(path)
        if opened is None or opened.stamp != stamp:
            # In chunks even where it is small: only what is shown is read, and all computing tells how far it is.
            opened = Opened(path, Subject.of(open_store(self._place(path), eager_bytes=0), needed_by="view"), stamp)
        with self._lock:
            self._open[path] = (opened, time.monotonic())
            self._open.move_to_end(path)
            while len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)
        return opened

    def stamp(self, path: str) -> str:
        """Return a word that changes whenever the status of a run does.

        Raises
        ------
        InvalidInputError
            If the store has no such run.
        StoreGoneError
            If it is there no more.
        """
        place = self._place(path)
        digest = hashlib.sha256(self._metadata(place))
        try:
            status = read_status(resolve(place, read_only=True))
        except StoreError:  # of DevInterp 2, or damaged: opening it says what is wrong
            return digest.hexdigest()
        for cells in (status.state, status.steps_done, status.error):
            digest.update(repr(cells.tolist()).encode())
        return digest.hexdigest()

    def check(self, opened: Opened) -> bool:
        """Say whether a run is still as it was.

        Raises
        ------
        StoreGoneError
            If it is there no more: missing chunks would read as missing numbers.
        """
        return self.stamp(opened.path) == opened.stamp

    def check_there(self) -> None:
        """Raise `StoreGoneError` unless the store is there."""
        self._metadata(self._location)

    def _place(self, path: str) -> StoreLike:
        """Return where a run is stored; only the runs of the store have a place."""
        if path not in self.table().runs:
            raise InvalidInputError(f"this store has no run {path!r:.200}.")
        return self._location if path == ITSELF else below(self._location, path)

    def _metadata(self, place: StoreLike) -> bytes:
        try:
            store = resolve(place, read_only=True)
            content = next((each for each in (keys.get(store, key) for key in _ROOTS) if each is not None), None)
        except Exception as error:  # stores of each kind fail in their own way
            raise self._gone() from error
        if content is None:
            raise self._gone()
        return content

    def _is_fresh(self, checked: float) -> bool:
        return checked > self._lost and time.monotonic() - checked < _FRESH

    def _gone(self) -> StoreGoneError:
        self._lost = time.monotonic()
        return StoreGoneError(
            f"The store {self.name} cannot be read any more: it was moved or deleted, or its place cannot be reached. When it "
            "is back, load this page again."
        )


#: Keys of which every store has one, of zarr's formats 3 and 2.
_ROOTS = (keys.METADATA, ".zgroup", ".zmetadata")


def _is_usable(path: str) -> bool:
    """Say whether a path can only lead to a group of the store."""
    try:
        for part in path.split("/"):
            schema.check_names([part], kind="run")
    except InvalidInputError:
        return False
    return True


def state_of(run: xr.DataTree) -> dict[str, Any]:
    """Return how far a run is: ``"finished"``, ``"diverged"``, ``"running"`` or ``"incomplete"``, and steps done of all."""
    if schema.missing(run, [f"{schema.STATUS}/state", f"{schema.STATUS}/steps_done"]):
        return {"state": "finished", "steps": "", "is_final": True}
    states, done = (np.asarray(run[f"{schema.STATUS}/{each}"]) for each in ("state", "steps_done"))
    total = run[schema.TRACE].sizes.get(schema.STEP, 0) * states.size
    return _state(states, done) | {"steps": f"{int(done.astype(int).sum()):,} of {total:,}"}


def _state(states: np.ndarray, done: np.ndarray) -> dict[str, Any]:
    states = states.astype(object)
    is_final = bool(np.isin(states, (schema.FINISHED, schema.DIVERGED)).all())
    if is_final:
        word = "diverged" if (states == schema.DIVERGED).any() else "finished"
    else:
        word = "running" if (states == schema.RUNNING).any() else "incomplete"
    return {"state": word, "steps": f"{int(done.astype(int).sum()):,}", "is_final": is_final}
