"""What varies in a study: named axes, their labels and values, and the runs that they make."""

from __future__ import annotations

import hashlib
import itertools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np

from devinterp import schema
from devinterp.errors import InvalidInputError

#: What tells the runs of a study apart along an axis: a coordinate value of joined results.
Label: TypeAlias = int | float | str
#: What may be given as ``over=``.
Over: TypeAlias = Mapping[Any, Any] | Sequence[Mapping[str, Any]]

#: Dimension of rows of settings, where no name alone tells them apart.
ROW = "row"
_MAX_NAME = 120


@final
@dataclass(frozen=True)
class Axis:
    """One dimension of a study.

    Parameters
    ----------
    dim : str
        Its name in joined results.
    names : tuple of str
        What varies along it; several names vary together, row by row.
    points : tuple of mapping
        Of each place along it, label and value of every name.
    """

    dim: str
    names: tuple[str, ...]
    points: tuple[Mapping[str, tuple[Label, Any]], ...]


@final
@dataclass(frozen=True)
class Point:
    """What one run of a study is about.

    Parameters
    ----------
    labels : mapping of str to label
        By the name of what varies.
    values : mapping of str to object
        What is varied to.
    """

    labels: Mapping[str, Label]
    values: Mapping[str, Any]


def axes_of(over: Over | None) -> list[Axis]:
    """Return the axes that ``over=`` asks for.

    Parameters
    ----------
    over : mapping, sequence of mappings or None
        Names to values, of which all combinations are taken; a tuple of names to tuples of values, which vary together; or a
        list of rows, each a mapping of the same names to values. Values are a sequence, or a mapping of labels to values.

    Raises
    ------
    InvalidInputError
        If a name, a value or a label cannot be used.
    """
    if over is None:
        return []
    if isinstance(over, Mapping):
        axes = [_axis(key, values) for key, values in over.items()]
    elif isinstance(over, Sequence) and not isinstance(over, str) and all(isinstance(row, Mapping) for row in over):
        axes = [_rows(over)]
    else:
        raise InvalidInputError(
            f"`over` must be a mapping of names to values, or a list of rows such as {{'lr': 1e-3, 'n_beta': 10}}; got "
            f"{type(over).__name__}."
        )
    check_distinct(axes)
    return axes


def check_distinct(axes: Sequence[Axis]) -> None:
    """Raise `InvalidInputError` if two axes vary the same thing."""
    names = [name for axis in axes for name in axis.names]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InvalidInputError(f"{twice[0]!r} varies twice: name it once, in `over` or by the labels of `models`.")


def axis(name: str, values: Mapping[Any, Any]) -> Axis:
    """Return an axis along which one thing varies, by labels.

    Labels that are the same text around numbers (``"step0"``, ``"step512"``) become these numbers.
    """
    labels = numbers_in(list(values))
    points = [{name: (label, value)} for label, value in zip(labels, values.values(), strict=True)]
    _check_name(name)
    _check_labels(name, labels)
    return Axis(name, (name,), tuple(points))


def points_of(axes: Sequence[Axis]) -> Iterator[Point]:
    """Yield every combination of places along the axes, the last axis fastest."""
    for places in itertools.product(*(axis.points for axis in axes)):
        merged = {name: each for place in places for name, each in place.items()}
        yield Point(
            {name: label for name, (label, _) in merged.items()}, {n: value for n, (_, value) in merged.items()}
        )


def run_name(labels: Mapping[str, Label]) -> str:
    """Return the name of a run's group in the store: ``checkpoint=512,seed=0``, ``run`` where nothing varies.

    What cannot stand in the name of a directory is replaced, and a hash of the labels is added then.
    """
    name = ",".join(f"{key}={label}" for key, label in labels.items()) or "run"
    clean = "".join(
        "_" if char in '/\\:*?"<>|' or unicodedata.category(char) in ("Cc", "Cs") else char for char in name
    )
    if clean == name and len(name.encode()) <= _MAX_NAME:
        return name
    digest = hashlib.blake2b(repr(sorted(labels.items())).encode(), digest_size=5).hexdigest()
    return f"{clean.encode()[:_MAX_NAME].decode(errors='ignore').rstrip(' .')}-{digest}"


def check_names_of_runs(names: Iterable[str]) -> None:
    """Raise `InvalidInputError` unless the groups of all runs can lie side by side on every file system."""
    schema.check_names(names, kind="run")


def numbers_in(labels: Sequence[Any]) -> list[Label]:
    """Return labels; those that are the same text around different numbers as these numbers."""
    plain = [label.item() if isinstance(label, np.generic) else label for label in labels]
    if not all(isinstance(label, str) for label in plain):
        return plain
    parts = [re.fullmatch(r"(.*?)(\d+(?:\.\d+)?)(\D*)", label) for label in plain]
    if not all(parts) or len({(part[1], part[3]) for part in parts if part}) > 1:
        return plain
    numbers: list[Label] = [float(part[2]) if "." in part[2] else int(part[2]) for part in parts if part]
    return numbers if len(set(numbers)) == len(numbers) else plain


def _axis(key: Any, values: Any) -> Axis:
    if isinstance(key, str):
        return axis(key, _labelled(key, values))
    if isinstance(key, tuple) and key and all(isinstance(name, str) for name in key):
        rows = _sequence(", ".join(key), values)
        if not all(isinstance(row, tuple | list) and len(row) == len(key) for row in rows):
            raise InvalidInputError(f"`over`: {key} vary together; each row must hold {len(key)} values.")
        return _rows([dict(zip(key, row, strict=True)) for row in rows])
    raise InvalidInputError(f"`over`: {key!r} must be a name, or a tuple of names that vary together.")


def _rows(rows: Sequence[Mapping[str, Any]]) -> Axis:
    if not rows or not rows[0] or any(set(row) != set(rows[0]) for row in rows):
        raise InvalidInputError("`over`: rows must all name the same settings, and there must be at least one.")
    names = tuple(rows[0])
    labels = {name: numbers_in([_label(name, row[name]) for row in rows]) for name in names}
    points = [{name: (labels[name][n], row[name]) for name in names} for n, row in enumerate(rows)]
    for name in names:
        _check_name(name)
        _check_kinds(name, labels[name])
    dim = next((name for name in names if len(set(labels[name])) == len(rows)), None)
    if dim is None:
        if ROW in names:
            raise InvalidInputError(f"`over`: {ROW!r} is the name of the rows themselves; call it something else.")
        points = [{ROW: (n, n), **point} for n, point in enumerate(points)]
        return Axis(ROW, (ROW, *names), tuple(points))
    return Axis(dim, names, tuple(points))


def _labelled(name: str, values: Any) -> dict[Any, Any]:
    """Return the values of an axis by their labels."""
    if isinstance(values, Mapping):
        return dict(values)
    listed = _sequence(name, values)
    labels = [_label(name, value) for value in listed]
    _check_labels(name, labels)
    return dict(zip(labels, listed, strict=True))


def _sequence(name: str, values: Any) -> list[Any]:
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return list(values.tolist())
    if isinstance(values, Sequence) and not isinstance(values, str | bytes) and len(values):
        return list(values)
    raise InvalidInputError(
        f"`over`: the values of {name!r} must be a list with at least one, or a mapping of labels to values; got "
        f"{str(values)[:60]!r}."
    )


def _label(name: str, value: Any) -> Label:
    plain = value.item() if isinstance(value, np.generic) else value
    if plain is None or isinstance(plain, bool):
        return str(plain)
    if isinstance(plain, int | float | str):
        return plain
    raise InvalidInputError(
        f"`over`: a value of {name!r} is a {type(value).__name__}, which is no label: give a mapping of labels to values, for "
        f"example {{{name!r}: {{'first': ..., 'second': ...}}}}."
    )


def _check_name(name: str) -> None:
    taken = {dim for dims in schema.DIMS.values() for dim in dims}
    if not isinstance(name, str) or not name.isidentifier() or name in taken:
        hint = (
            "that is a dimension of every run"
            if name in taken
            else "it must be a word of letters, digits and underscores"
        )
        raise InvalidInputError(f"`over`: {name!r} cannot be the name of what varies: {hint}.")


def _check_labels(name: str, labels: Sequence[Label]) -> None:
    _check_kinds(name, labels)
    if not labels or len(set(labels)) < len(labels):
        raise InvalidInputError(f"the labels of {name!r} must be different from each other, and at least one.")


def _check_kinds(name: str, labels: Sequence[Label]) -> None:
    numbers = [isinstance(label, int | float) and not isinstance(label, bool) for label in labels]
    if not (all(numbers) or all(isinstance(label, str) and label for label in labels)):
        raise InvalidInputError(f"the labels of {name!r} must be all numbers, or all words: {list(labels)[:6]}.")
    if all(numbers) and not np.isfinite(np.asarray(labels, dtype=float)).all():
        raise InvalidInputError(f"the labels of {name!r} must be finite numbers.")
