"""Which observables, sequences and positions take part in an analysis of pairs, and what each row of the result then is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.blockwise import join
from devinterp.analyses.common.run_data import unlabelled_losses
from devinterp.errors import InvalidInputError
from devinterp.schema import OBSERVABLES, POSITION, SEQUENCE, TOKEN

#: One observable's name, several, or for each name which sequences, or ``(sequences, positions)``, or a mask of both.
Selection: TypeAlias = str | Sequence[str] | Mapping[str, Any] | None
Ids = TypeVar("Ids", xr.DataArray, xr.Variable)


@dataclass(frozen=True)
class Part:
    """Some sequences and positions of one observable, as indices."""

    name: str
    sequences: np.ndarray
    positions: np.ndarray
    mask: np.ndarray | None = None

    def loss(self, run: xr.DataTree) -> xr.Variable:
        """Return the losses of this part, NaN where a mask leaves a token out."""
        found = unlabelled_losses(run, f"{OBSERVABLES}/{self.name}")
        found = found.isel({SEQUENCE: _index(self.sequences), POSITION: _index(self.positions)})
        if self.mask is None:
            return found
        return xr.DataArray(found).where(xr.DataArray(self.mask, dims=(SEQUENCE, POSITION))).variable

    def rows(self, start: int, stop: int) -> Part:
        """Return the part with some of its sequences."""
        mask = None if self.mask is None else self.mask[start:stop]
        return Part(self.name, self.sequences[start:stop], self.positions, mask)


@dataclass(frozen=True)
class Side:
    """The rows or the columns of a result: sequences of one or several observables, one after the other."""

    parts: tuple[Part, ...]
    #: The indices of predicted tokens, over all parts.
    position: np.ndarray
    #: For each part, where its positions are among these.
    slots: tuple[np.ndarray, ...]
    #: ``(batch, position)``: what `Catalogue` calls each token, -1 where there is none.
    token: np.ndarray

    @cached_property
    def observable(self) -> xr.Variable:
        """The name of each row's observable."""
        # Picked from a few, because xarray inspects every object that it is given, but not what it picks itself.
        names = xr.Variable(SEQUENCE, np.array([part.name for part in self.parts], dtype=object))
        return names.isel({SEQUENCE: np.repeat(np.arange(len(self.parts)), [len(p.sequences) for p in self.parts])})

    @property
    def sequence(self) -> np.ndarray:
        """The index of each row's sequence in its observable."""
        return np.concatenate([part.sequences for part in self.parts])

    def input_ids(self, run: xr.DataTree) -> xr.Variable | None:
        """Return the token ids ``(sequence, token)``, -1 past the end of shorter ones; None for data that are not tokens."""
        found = []
        for part in self.parts:
            variables = run[f"{OBSERVABLES}/{part.name}"].variables
            if "token_ids" not in variables:
                return None
            found.append(variables["token_ids"].isel({SEQUENCE: _index(part.sequences)}))
        width = max(ids.sizes[TOKEN] for ids in found)
        padded = [widened(ids, width) for ids in found]
        return xr.Variable((SEQUENCE, TOKEN), join([ids.data for ids in padded], 0))


def widened(ids: Ids, width: int) -> Ids:
    """Return token ids padded with -1 to so many tokens."""
    if ids.sizes[TOKEN] == width:
        return ids
    padded: Ids = ids.pad({TOKEN: (0, width - ids.sizes[TOKEN])}, constant_values=-1)
    return padded


class Catalogue:
    """What observables a run has, and a number for each of their tokens."""

    def __init__(self, run: xr.DataTree) -> None:
        self.names = sorted(schema.observable_names(run))
        self.position: dict[str, np.ndarray] = {}
        self.num_sequences: dict[str, int] = {}
        for name in self.names:
            group = run[f"{OBSERVABLES}/{name}"]
            found = unlabelled_losses(run, f"{OBSERVABLES}/{name}")
            # Labels of positions hold for losses that are stored by position, not for what several dims were taken together as.
            labelled = POSITION in group.coords and found.dims == group.variables["loss"].dims
            positions = np.arange(1, found.sizes[POSITION] + 1)
            self.position[name] = group.variables[POSITION].to_numpy() if labelled else positions
            self.num_sequences[name] = found.sizes[SEQUENCE]
        sizes = [self.num_sequences[name] * len(self.position[name]) for name in self.names]
        self.offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def number(self, part: Part) -> np.ndarray:
        """Return the tokens' numbers, ``(sequence, position)``."""
        offset = self.offsets[self.names.index(part.name)]
        numbers: np.ndarray = offset + part.sequences[:, None] * len(self.position[part.name]) + part.positions[None, :]
        return numbers


def select(catalogue: Catalogue, selection: Selection, *, within: Any = None, argument: str, needed_by: str) -> Side:
    """Return the rows that a selection describes.

    Parameters
    ----------
    catalogue : Catalogue
        Of the run.
    selection : Selection
        None for all observables, by name in alphabetical order.
    within : (int, int) or slice, optional
        Keep this range of the selected sequences.
    argument, needed_by : str
        Names of the argument and of the analysis, for messages.

    Raises
    ------
    InvalidInputError
        If a name is unknown or an index does not fit.
    """
    parts = _parts(catalogue, selection, argument, needed_by)
    total = sum(len(part.sequences) for part in parts)
    if within is not None:
        kept = range(total)[within if isinstance(within, slice) else slice(*within)]
        parts = _slice(parts, kept.start, max(kept.start, kept.stop))
    if not parts or not any(len(part.positions) for part in parts):
        raise InvalidInputError(
            f"`{needed_by}`: `{argument}` must select at least one token; of {total} sequences it selects none."
        )
    labels = [catalogue.position[part.name][part.positions] for part in parts]
    position = np.unique(np.concatenate(labels)) if len(parts) > 1 else labels[0]
    slots = tuple(np.searchsorted(position, label) if len(parts) > 1 else np.arange(len(label)) for label in labels)
    numbers = []
    for part, slot in zip(parts, slots, strict=True):
        block = np.full((len(part.sequences), len(position)), -1, np.int64)
        block[:, slot] = (
            catalogue.number(part) if part.mask is None else np.where(part.mask, catalogue.number(part), -1)
        )
        numbers.append(block)
    return Side(tuple(parts), position, slots, np.concatenate(numbers))


def _parts(catalogue: Catalogue, selection: Selection, argument: str, needed_by: str) -> list[Part]:
    if selection is None:
        selection = catalogue.names
    wanted: dict[str, Any]
    if isinstance(selection, str):
        wanted = {selection: slice(None)}
    elif isinstance(selection, Mapping):
        wanted = dict(selection)
    else:
        wanted = dict.fromkeys(selection, slice(None))
    parts = []
    for given, index in wanted.items():
        # DevInterp 2 called the losses of an observable "loss_<name>".
        name = given if given in catalogue.names else str(given).removeprefix("loss_")
        if name not in catalogue.names:
            raise InvalidInputError(
                f"`{needed_by}`: `{argument}` names {given!r}; the observables are {catalogue.names}."
            )
        part = _part(name, index, catalogue.num_sequences[name], len(catalogue.position[name]), argument, needed_by)
        if len(part.sequences):
            parts.append(part)
    return parts


def _part(name: str, index: Any, num_sequences: int, num_positions: int, argument: str, needed_by: str) -> Part:
    place = f"`{needed_by}`: `{argument}`[{name!r}]"
    if isinstance(index, tuple) and len(index) == 2:
        sequences = _resolve(index[0], num_sequences, f"{place}, sequences")
        return Part(name, sequences, _resolve(index[1], num_positions, f"{place}, positions"))
    mask = np.asarray(index) if not isinstance(index, slice) else None
    if mask is not None and mask.dtype == bool and mask.ndim == 2:
        if mask.shape != (num_sequences, num_positions):
            raise InvalidInputError(
                f"{place}: the mask must have shape {(num_sequences, num_positions)}; got {mask.shape}."
            )
        sequences, positions = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        inner = mask[np.ix_(sequences, positions)]
        return Part(name, sequences, positions, None if inner.all() else inner)
    return Part(name, _resolve(index, num_sequences, f"{place}, sequences"), np.arange(num_positions))


def _resolve(index: Any, size: int, place: str) -> np.ndarray:
    """Return a slice, an integer, integers or a boolean mask as an array of indices."""
    if index is None:
        return np.arange(size)
    if isinstance(index, slice):
        return np.arange(size)[index]
    found = np.atleast_1d(np.asarray(index))
    if found.dtype == bool and found.shape == (size,):
        return np.flatnonzero(found)
    if found.ndim != 1 or found.dtype.kind not in "iu" or (found < -size).any() or (found >= size).any():
        raise InvalidInputError(
            f"{place}: expected a slice, integers from {-size} to {size - 1}, or a boolean mask of length {size}; "
            f"got {index!r}."
        )
    return np.asarray(np.arange(size)[found])


def _slice(parts: list[Part], start: int, stop: int) -> list[Part]:
    kept, offset = [], 0
    for part in parts:
        first, last = max(0, start - offset), min(len(part.sequences), stop - offset)
        if first < last:
            kept.append(part.rows(first, last))
        offset += len(part.sequences)
    return kept


def _index(found: np.ndarray) -> Any:
    """Return a run of neighbours as a slice, which copies and reads less than a list of indices."""
    if len(found) and (np.diff(found) == 1).all():
        return slice(int(found[0]), int(found[-1]) + 1)
    return found
