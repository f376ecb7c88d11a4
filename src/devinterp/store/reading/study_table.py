"""The table of a study, in its root: which runs there are, what tells them apart, and which failed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

from zarr.abc.store import Store

from devinterp import schema
from devinterp.errors import StoreError
from devinterp.store import keys

#: A group of a study's store that is no part of the tree: why runs failed, a group of attributes for each.
FAILED = "failed"
_VERSION = 1


@final
@dataclass(frozen=True)
class StudyTable:
    """Which runs belong to a study.

    Parameters
    ----------
    dims : mapping of str to list of str
        Dimensions of joined results, and the names of what varies along each.
    runs : mapping of str to mapping
        By the name of a run's group, the labels that tell it apart.
    failed : mapping of str to str
        Why runs failed, by their names, as it was when the study last ended.
    """

    dims: Mapping[str, list[str]]
    runs: Mapping[str, Mapping[str, Any]]
    failed: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the table as JSON-able values."""
        return {"version": _VERSION, "dims": dict(self.dims), "runs": dict(self.runs), "failed": dict(self.failed)}


def read_table(store: Store) -> StudyTable | None:
    """Return the table of a study; None where a store holds no study.

    Raises
    ------
    StoreError
        If the table is damaged.
    """
    text = keys.get_attrs(store, "").get(schema.STUDY)
    return None if text is None else table_of(text)


def table_of(text: Any) -> StudyTable:
    """Return the table that the root attribute ``study`` holds.

    Raises
    ------
    StoreError
        If it holds none.
    """
    try:
        value = json.loads(text)
        version, dims, runs = value["version"], value["dims"], value["runs"]
        failed = value.get("failed", {})
        if version == _VERSION and all(isinstance(each, dict) for each in (dims, runs, failed, *runs.values())):
            return StudyTable(
                {str(dim): [str(name) for name in names] for dim, names in dims.items()},
                runs,
                {str(name): str(error) for name, error in failed.items()},
            )
    except (KeyError, TypeError, ValueError):
        pass
    raise StoreError(
        "the table of this study (attribute `study` of its root) is damaged, or of a later version of devinterp."
    )


def failures(store: Store) -> dict[str, dict[str, Any]]:
    """Return what is recorded of the runs of a study that failed, by their names."""
    return {
        name: keys.get_attrs(store, f"{FAILED}/{name}")
        for name in sorted(keys.children(store, FAILED))
        if name != keys.METADATA
    }
