"""What tells the runs of a study apart, as each of them records it, and results of them joined along these dimensions."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import xarray as xr

Label = int | float | str


@final
@dataclass(frozen=True)
class StudyLabels:
    """What tells the runs of a study apart.

    Parameters
    ----------
    dims : mapping of str to tuple of str
        Dimensions of joined results, and the names of what varies along each.
    labels : mapping of str to mapping
        By the path of a run, the label of every name.
    """

    dims: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, Mapping[str, Label]]

    @classmethod
    def of(cls, runs: Mapping[str, xr.DataTree]) -> StudyLabels | None:
        """Return what the runs of one study record of themselves; None where they are not those of one study.

        Parameters
        ----------
        runs : mapping of str to xarray.DataTree
            By their path below the node that was asked; a run that was asked itself needs no label.
        """
        if not runs or "." in runs:
            return None
        notes = {path: _note(run) for path, run in runs.items()}
        first = next(iter(notes.values()))
        if not first or any(note.get("dims") != first["dims"] for note in notes.values()):
            return None
        # The name of a dimension is that of its labels, which order it.
        dims = {str(dim): tuple(dict.fromkeys([str(dim), *map(str, names)])) for dim, names in first["dims"].items()}
        names = {name for each in dims.values() for name in each}
        labels = {path: note["labels"] for path, note in notes.items()}
        if not dims or any(set(each) != names for each in labels.values()):
            return None
        study = cls(dims, labels)
        return study if len({study._place(path) for path in labels}) == len(labels) else None

    def _place(self, path: str) -> tuple[tuple[Label, ...], ...]:
        """Return where a run is along each dimension."""
        return tuple(tuple(self.labels[path][name] for name in names) for names in self.dims.values())

    def grid(self) -> tuple[dict[str, list[tuple[Label, ...]]], list[str | None]]:
        """Return the places along each dimension, in increasing order of numbers, and the run at each combination of them."""
        at = {self._place(path): path for path in self.labels}
        places = {
            dim: _sorted(list(dict.fromkeys(place[number] for place in at))) for number, dim in enumerate(self.dims)
        }
        return places, [at.get(combination) for combination in itertools.product(*places.values())]

    def lines(self, dim: str) -> list[list[tuple[Label, str]]]:
        """Return the runs along a dimension, with their labels on it, for each combination of labels on the others."""
        number = list(self.dims).index(dim)
        lines: dict[tuple[Any, ...], dict[tuple[Label, ...], str]] = {}
        for path in self.labels:
            place = self._place(path)
            lines.setdefault((*place[:number], *place[number + 1 :]), {})[place[number]] = path
        return [[(place[0], line[place]) for place in _sorted(list(line))] for line in lines.values()]


def _note(run: xr.DataTree) -> dict[str, Any]:
    provenance = run.attrs.get("provenance")
    # Looking for the word first spares reading the provenance of runs that belong to no study.
    if not isinstance(provenance, str) or '"study"' not in provenance:
        return {}
    try:
        note = json.loads(provenance)["notes"]["study"]
        usable = isinstance(note["dims"], dict) and isinstance(note["labels"], dict)
    except (KeyError, TypeError, ValueError):
        return {}
    return note if usable else {}


def _sorted(places: list[tuple[Label, ...]]) -> list[tuple[Label, ...]]:
    numeric = all(isinstance(place[0], int | float) for place in places)
    return sorted(places, key=lambda place: place[0]) if numeric else places


def unfolded(joined: Any, study: StudyLabels, dim: str, paths: Sequence[str]) -> Any:
    """Return results that were joined along one dimension of runs with the dimensions of their study in its place.

    Parameters
    ----------
    joined : xarray.Dataset or xarray.DataArray
        With the runs in front, labelled by their paths.
    study : StudyLabels
        What tells them apart.
    dim : str
        The dimension of runs.
    paths : sequence of str
        The runs that are in it.

    Returns
    -------
    xarray.Dataset or xarray.DataArray
        Missing combinations are NaN.
    """
    places, wanted = study.grid()
    known = set(paths)
    labels = [path if path in known else f"missing {number}" for number, path in enumerate(wanted)]
    if labels != list(paths):
        joined = joined.reindex({dim: labels}) if known != set(labels) else joined.sel({dim: labels})
    sizes = tuple(len(each) for each in places.values())
    if isinstance(joined, xr.DataArray):
        name = joined.name
        dataset = joined.to_dataset(name="_", promote_attrs=False)
        return _unfolded(dataset, dim, tuple(places), sizes).assign_coords(_coords(study, places))["_"].rename(name)
    return _unfolded(joined, dim, tuple(places), sizes).assign_coords(_coords(study, places))


def _unfolded(joined: xr.Dataset, dim: str, dims: tuple[str, ...], sizes: tuple[int, ...]) -> xr.Dataset:
    def one(variable: xr.Variable) -> xr.Variable:
        if dim not in variable.dims:
            return variable
        front = variable.transpose(dim, ...)
        shape = (*sizes, *front.shape[1:])
        return xr.Variable((*dims, *front.dims[1:]), front.data.reshape(shape), front.attrs)

    kept = {name: variable for name, variable in joined.variables.items() if name != dim}
    coords = {name: one(variable) for name, variable in kept.items() if name in joined.coords}
    data = {name: one(variable) for name, variable in kept.items() if name not in joined.coords}
    return xr.Dataset(data, coords, joined.attrs)


def _coords(study: StudyLabels, places: Mapping[str, list[tuple[Label, ...]]]) -> dict[str, tuple[str, np.ndarray]]:
    return {
        name: (dim, np.asarray([place[number] for place in places[dim]]))
        for dim, names in study.dims.items()
        for number, name in enumerate(names)
    }


def is_logarithmic(values: Sequence[float]) -> bool:
    """Say whether numbers are more evenly spaced on a logarithmic axis than on a linear one; a zero in front is left aside."""
    positive = sorted(value for value in values if value > 0)
    if len(positive) < 3 or any(value < 0 for value in values):
        return False
    logs = [math.log(value) for value in positive]

    def unevenness(numbers: Sequence[float]) -> float:
        gaps = np.diff(np.asarray(numbers, dtype=float))
        return float(gaps.std() / gaps.mean())

    return unevenness(logs) < unevenness(positive)
