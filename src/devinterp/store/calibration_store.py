"""The store of a calibration: a study whose root also says what was measured and judged."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from devinterp.errors import StoreError
from devinterp.schema import NULL
from devinterp.store import keys
from devinterp.store.location import StoreLike, describe, resolve
from devinterp.store.reading.study_table import StudyTable
from devinterp.store.study_store import StudyStore
from devinterp.store.writing.checkpoints import load_all, remove_all
from devinterp.types import ChainKey

#: Attributes of the root: what was measured and judged, and the arguments of the command that began it.
CALIBRATION, COMMAND = "calibration", "devinterp calibrate"


@dataclass(frozen=True)
class CalibrationStore:
    """The store of a calibration.

    Parameters
    ----------
    study : StudyStore
        Its runs.
    """

    study: StudyStore

    @classmethod
    def at(cls, location: StoreLike, dims: Mapping[str, list[str]]) -> CalibrationStore:
        """Return the store at a path, made anew where there is none.

        Parameters
        ----------
        location : str, path or zarr.abc.store.Store
            Of the store.
        dims : mapping of str to list of str
            Dimensions of joined results, and what varies along each.

        Raises
        ------
        StoreError
            If something else is there.
        """
        study = StudyStore.at(location)
        if study.table() is None:
            study.write_table(StudyTable(dims, {}))
            keys.update_attrs(study.store, "", {CALIBRATION: {}})
        elif CALIBRATION not in keys.get_attrs(study.store, ""):
            raise StoreError(f"{study.name} holds a study that is no calibration: choose another path.")
        return cls(study)

    @property
    def name(self) -> str:
        """What a person calls the store."""
        return self.study.name

    def lock(self) -> AbstractContextManager[object]:
        """Return a lock to hold while runs are added."""
        return self.study.lock()

    def read(self) -> dict[str, Any]:
        """Return what was measured and judged; empty in a new store."""
        values: dict[str, Any] = keys.get_attrs(self.study.store, "").get(CALIBRATION, {})
        return values

    def write(self, values: Mapping[str, Any]) -> None:
        """Replace what was measured and judged, in one write."""
        keys.update_attrs(self.study.store, "", {CALIBRATION: values})

    def place(self, run: str) -> StoreLike:
        """Return where a run is written, given the name of its group."""
        return self.study.place(run)

    def add(self, run: str, labels: Mapping[str, Any]) -> None:
        """Add a run to the table of the study."""
        table = self.study.table()
        assert table is not None
        if run not in table.runs:
            self.study.write_table(StudyTable(table.dims, {**table.runs, run: dict(labels)}))

    def num_runs(self) -> int:
        """Return how many runs there are."""
        table = self.study.table()
        assert table is not None
        return len(table.runs)

    def last_weights(self, run: str) -> dict[ChainKey, list[np.ndarray]]:
        """Return the sampled weights at the end of every chain of a run whose state was kept, by restriction and chain."""
        weights = {}
        for checkpoint in load_all(resolve(self.place(run))):
            for number, key in enumerate(checkpoint.keys):
                weights[key] = [values[number] for values in checkpoint.arrays["values"]]
        return weights

    def finish(self) -> None:
        """Remove the states of chains, and make all runs readable as one tree."""
        table = self.study.table()
        assert table is not None
        for run in table.runs:
            for path in (run, f"{run}/{NULL}"):
                if self.study.attrs(path):
                    remove_all(resolve(self.place(path)))
        self.study.consolidate()

    def open_tree(self) -> xr.DataTree:
        """Return all runs as one tree."""
        return self.study.open_tree()


def read_root(location: StoreLike) -> dict[str, Any]:
    """Return the attributes of the root of a calibration's store, without writing to it.

    Raises
    ------
    StoreError
        If there is none.
    """
    try:
        attrs = keys.get_attrs(resolve(location, read_only=True), "")
    except FileNotFoundError:
        attrs = {}
    if not isinstance(attrs.get(CALIBRATION), dict):
        raise StoreError(
            f"{describe(location)} holds no calibration: expected a store written by `devinterp.calibrate`."
        )
    return attrs


def write_command(location: StoreLike, arguments: Mapping[str, Any]) -> None:
    """Note the arguments of the command that began a calibration, so that runs can go on from it."""
    keys.update_attrs(resolve(location), "", {COMMAND: dict(arguments)})
