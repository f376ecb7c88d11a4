"""Turning the arguments that select observables, sequences and positions into the sides of a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from devinterp import arguments, schema
from devinterp.analyses.bif.sides import Part, Side, TokenNumbers
from devinterp.errors import InvalidInputError

#: One observable's name, several, or for each name which sequences, or ``(sequences, positions)``, or a mask of both.
Selection: TypeAlias = str | Sequence[str] | Mapping[str, Any] | None


def select(
    numbers: TokenNumbers, selection: Selection, *, within: tuple[str, Any] | None = None, argument: str, needed_by: str
) -> Side:
    """Return the side of a result that a selection describes.

    Parameters
    ----------
    numbers : TokenNumbers
        Of the run.
    selection : Selection
        None for all observables, by name in alphabetical order.
    within : tuple of str and sequence of int, slice or "all", optional
        The name of an argument and its value: keep these of the selected sequences, counted over all observables, in this
        order.
    argument, needed_by : str
        Names of the argument and of the analysis, for messages.

    Raises
    ------
    InvalidInputError
        If a name is unknown or an index does not fit.
    """
    parts = _parts(numbers, selection, argument, needed_by)
    total = sum(len(part.sequences) for part in parts)
    rows = None if within is None else within[1]
    if within is not None and rows is not None and not (isinstance(rows, str) and rows == "all"):
        parts = _within(parts, _indices(rows, total, f"`{needed_by}`: `{within[0]}`"))
    if not parts or not any(len(part.positions) for part in parts):
        raise InvalidInputError(
            f"`{needed_by}`: `{argument}` must select at least one token; of {total} sequences it selects none."
        )
    labels = [numbers.position[part.name][part.positions] for part in parts]
    position = np.unique(np.concatenate(labels)) if len(parts) > 1 else labels[0]
    columns = tuple(np.searchsorted(position, label) if len(parts) > 1 else np.arange(len(label)) for label in labels)
    token_numbers = []
    for part, column in zip(parts, columns, strict=True):
        block = np.full((len(part.sequences), len(position)), -1, np.int64)
        block[:, column] = numbers.of(part)
        token_numbers.append(block)
    return Side(tuple(parts), position, columns, np.concatenate(token_numbers))


def _parts(numbers: TokenNumbers, selection: Selection, argument: str, needed_by: str) -> list[Part]:
    if selection is None or (isinstance(selection, str) and selection == "all" and "all" not in numbers.names):
        selection = numbers.names
    indices: dict[str, Any]
    if isinstance(selection, str):
        indices = {selection: slice(None)}
    elif isinstance(selection, Mapping):
        indices = dict(selection)
    else:
        indices = dict.fromkeys(arguments.names(argument, selection), slice(None))
    parts = []
    for given, index in indices.items():
        name = schema.observable_called(str(given), numbers.names)
        if name is None:
            raise InvalidInputError(
                f"`{needed_by}`: `{argument}` names {given!r}; the observables are {numbers.names}."
            )
        part = _part(
            name,
            index,
            (numbers.num_sequences[name], len(numbers.position[name])),
            label=f"`{needed_by}`: `{argument}`[{name!r}]",
        )
        if len(part.sequences):
            parts.append(part)
    return parts


def _part(name: str, index: Any, shape: tuple[int, int], *, label: str) -> Part:
    """Return what one entry of a selection describes; `label` names the entry in messages."""
    if isinstance(index, tuple) and len(index) == 2:
        sequences = _indices(index[0], shape[0], f"{label}, sequences")
        return Part(name, sequences, _indices(index[1], shape[1], f"{label}, positions"))
    mask = np.asarray(index) if not isinstance(index, slice) else None
    if mask is not None and mask.dtype == bool and mask.ndim == 2:
        if mask.shape != shape:
            raise InvalidInputError(f"{label}: the mask must have shape {shape}; got {mask.shape}.")
        sequences, positions = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        inner = mask[np.ix_(sequences, positions)]
        return Part(name, sequences, positions, None if inner.all() else inner)
    return Part(name, _indices(index, shape[0], f"{label}, sequences"), np.arange(shape[1]))


def _indices(index: Any, size: int, label: str) -> np.ndarray:
    """Return a slice, an integer, integers or a boolean mask as an array of indices."""
    if index is None:
        return np.arange(size)
    if isinstance(index, slice):
        return np.arange(size)[index]
    array = np.atleast_1d(np.asarray(index))
    if array.ndim == 1 and not len(array):
        return np.zeros(0, np.int64)
    if array.dtype == bool and array.shape == (size,):
        return np.flatnonzero(array)
    if array.ndim != 1 or array.dtype.kind not in "iu" or (array < -size).any() or (array >= size).any():
        raise InvalidInputError(
            f"{label}: expected a slice, integers from {-size} to {size - 1}, or a boolean mask of length {size}; "
            f"got {index!r}."
        )
    return np.asarray(np.arange(size)[array])


def _within(parts: list[Part], rows: np.ndarray) -> list[Part]:
    """Return the sequences of these numbers, counted over all parts."""
    ends = np.cumsum([len(part.sequences) for part in parts])
    part_of_row = np.searchsorted(ends, rows, side="right")
    boundaries = np.flatnonzero(np.diff(part_of_row)) + 1
    kept = []
    for group in np.split(rows, boundaries):
        if len(group):
            number = int(np.searchsorted(ends, group[0], side="right"))
            part = parts[number]
            kept.append(part.take(group - (ends[number] - len(part.sequences))))
    return kept
