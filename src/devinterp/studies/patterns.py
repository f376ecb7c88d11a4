"""Names of many checkpoints as one text: ``step{0,1,2,4,...,512}`` and ``checkpoint-*``."""

from __future__ import annotations

import re
from pathlib import Path

from devinterp.errors import InvalidInputError

_LIST = re.compile(r"\{([^{}]*,[^{}]*)\}")
_DOTS = "..."


def expand(pattern: str) -> dict[str, str] | None:
    """Return the names that a pattern stands for, by what is different in each; None where it is no pattern.

    Parameters
    ----------
    pattern : str
        With one list in braces, whose ``...`` continues the numbers before it up to the one after it: as a geometric series
        where the last three before it are one, else in steps of the difference of the last two. Or a path on disk with ``*``.

    Raises
    ------
    InvalidInputError
        If there are several lists, ``...`` continues nothing, or no path fits.
    """
    lists = _LIST.findall(pattern)
    if len(lists) > 1:
        raise InvalidInputError(f"{pattern!r} has several lists in braces; one says which checkpoints there are.")
    if lists:
        before, after = pattern.split("{" + lists[0] + "}")
        return {item: f"{before}{item}{after}" for item in numbers(lists[0])}
    if "*" in pattern:
        root = Path(pattern).anchor or "."
        paths = sorted(map(str, Path(root).glob(str(Path(pattern).relative_to(root) if root != "." else pattern))))
        if not paths:
            raise InvalidInputError(f"no path fits {pattern!r}.")
        return {path: path for path in sorted(paths, key=_natural)}
    return None


def numbers(text: str) -> list[str]:
    """Return the items of a list such as ``0,1,2,4,...,512``, those that ``...`` stands for among them.

    Raises
    ------
    InvalidInputError
        If ``...`` has no two numbers before it and a larger one after it, or an item occurs twice.
    """
    items = [item.strip() for item in text.split(",")]
    result: list[str] = []
    for number, item in enumerate(items):
        if item == _DOTS:
            result += map(str, _continued(items, number, text))
        elif item:
            result.append(item)
    if len(set(result)) < len(result) or not result:
        raise InvalidInputError(f"{{{text}}} must name each checkpoint once, and at least one; it gives {result}.")
    return result


def _continued(items: list[str], place: int, text: str) -> list[int]:
    try:
        *_, a, b = (int(item) for item in items[max(0, place - 3) : place])
        first = int(items[place - 3]) if place >= 3 else 0
        end = int(items[place + 1])
    except (ValueError, IndexError):
        a, b, first, end = 0, 0, 0, 0
    if not a < b < end:
        raise InvalidInputError(
            f"{{{text}}}: '...' must stand after two increasing whole numbers and before a larger one."
        )
    geometric = first > 0 and a * a == first * b and b % a == 0
    series, step = [], b
    while (step := step * (b // a) if geometric else step + b - a) < end:
        series.append(step)
        if len(series) > 100_000:
            raise InvalidInputError(f"{{{text}}} names more than 100,000 checkpoints.")
    return series


def _natural(path: str) -> list[tuple[int, int, str]]:
    """Return a key that sorts numbers in names by their size."""
    parts = re.split(r"(\d+)", path)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]
