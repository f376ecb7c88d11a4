"""Checks of arguments: each returns a plain Python value, or says which argument has to be what."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from devinterp.errors import InvalidInputError


def count(name: str, value: Any, *, least: int) -> int:
    """Return a whole number of at least `least`."""
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        kind = "a positive whole number" if least == 1 else f"a whole number, at least {least}"
        raise InvalidInputError(f"`{name}` (={value!r}) must be {kind}.")
    return number


def number(name: str, value: Any, *, positive: bool = False) -> float:
    """Return a finite number, positive or at least 0."""
    word = "positive" if positive else "at least 0"
    try:
        given = None if isinstance(value, str | bool) else float(value)
    except (TypeError, ValueError):
        given = None
    if given is None:
        raise InvalidInputError(f"`{name}` (={value!r}) must be a number, {word} and finite.")
    if not math.isfinite(given) or given < 0 or (positive and given == 0):
        raise InvalidInputError(f"`{name}` (={value!r}) must be {word} and finite.")
    return given


def flag(name: str, value: Any) -> bool:
    """Return True or False, given as such or as 1 or 0, by Python or numpy."""
    try:
        known = not isinstance(value, str) and bool(value in (0, 1))
    except (TypeError, ValueError):  # an array has no single answer
        known = False
    if not known:
        raise InvalidInputError(f"`{name}` (={value!r}) must be True or False.")
    return bool(value)


def word(name: str, value: Any, words: Sequence[str]) -> str:
    """Return one of some words."""
    if not isinstance(value, str) or value not in words:
        raise InvalidInputError(f"`{name}` (={value!r}) must be one of {', '.join(map(repr, words))}.")
    return value


def mapping(name: str, value: Any) -> dict[str, Any]:
    """Return a dict, or an empty one for None."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"`{name}` (={value!r}) must be a dict of names to values.")
    return dict(value)


def names(name: str, value: Any) -> list[Any]:
    """Return one name, or several, as a list; what they name is checked by who knows them."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Iterable):
        raise InvalidInputError(f"`{name}` (={value!r}) must be a name or a list of names.")
    return list(value)
