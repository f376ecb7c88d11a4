"""Coefficients of the runs of a study along what varies in it, as the coordinates of drawings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from devinterp.study_labels import StudyLabels, is_logarithmic
from devinterp_view.budget import first
from devinterp_view.chart import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, ticks
from devinterp_view.text import name, number

#: Dimensions of a study that are drawn, restrictions, and lines of each.
MAX_DIMS, MAX_RESTRICTIONS, MAX_LINES = 4, 6, 12
#: Labels of places on an axis of words.
_MAX_WORDS = 8


@dataclass(frozen=True, slots=True)
class Coefficient:
    """The most precise learning coefficient of one run under one restriction.

    Parameters
    ----------
    mean, error : float
        Its mean over chains and its standard error.
    verdict : str
        Of the run.
    """

    mean: float
    error: float
    verdict: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """Coefficients along one dimension of a study, in units of the view box of `devinterp_view.chart`.

    Parameters
    ----------
    dim : str
        What varies.
    label : str
        What is drawn.
    lines : list of dict
        ``path`` and its ``colour`` (a number).
    points : list of dict
        ``x``, ``y``, ``low`` and ``high`` (one standard error to either side), ``colour``, ``title``, and ``is_bad``, whether
        the verdict is a warning or worse, of each run.
    keys : list of (int, str)
        Colour of each restriction.
    x_ticks, y_ticks : list of (float, str)
        Place and text.
    """

    dim: str
    label: str
    lines: list[dict[str, str]]
    points: list[dict[str, Any]]
    keys: list[tuple[int, str]]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def along(study: StudyLabels, coefficients: Mapping[str, Mapping[str, Coefficient]]) -> tuple[list[Drawing], str]:
    """Return a drawing for each dimension of a study in which two runs or more differ, and what was left out.

    Parameters
    ----------
    study : StudyLabels
        What tells the runs apart.
    coefficients : mapping of str to mapping
        By run and restriction; runs without are left out.
    """
    dims, left_out = first(list(study.dims), MAX_DIMS, "dimensions")
    names = list(dict.fromkeys(restriction for of in coefficients.values() for restriction in of))
    restrictions, more = first(names, MAX_RESTRICTIONS, "restrictions")
    drawings, notes = [], [left_out, more]
    for dim in dims:
        lines = [line for line in study.lines(dim) if len(line) > 1]
        shown, too_many = first(lines, MAX_LINES, f"lines along {name(dim)}")
        if shown:
            drawings.append(_drawing(dim, shown, restrictions, coefficients))
            notes.append(too_many)
    return drawings, " ".join(dict.fromkeys(note for note in notes if note))


def _drawing(
    dim: str,
    lines: Sequence[Sequence[tuple[Any, str]]],
    restrictions: Sequence[str],
    coefficients: Mapping[str, Mapping[str, Coefficient]],
) -> Drawing:
    places, x_ticks = _axis(list(dict.fromkeys(label for line in lines for label, _ in line)))
    shown = [
        (colour, restriction, [(places[label], run) for label, run in line if _has(coefficients, run, restriction)])
        for colour, restriction in enumerate(restrictions)
        for line in lines
    ]
    ends = [end for _, restriction, of in shown for _, run in of for end in _ends(coefficients[run][restriction])]
    low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
    pad = 0.06 * (high - low) or 0.5
    low, high = low - pad, high + pad

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 2)

    drawn, points = [], []
    for colour, restriction, of in shown:
        here = [_point(x, run, restriction, coefficients[run][restriction], colour, y) for x, run in of]
        path = "M" + "L".join(f"{point['x']:.1f} {point['y']:.1f}" for point in here) if here else ""
        drawn.append({"path": path, "colour": str(colour)})
        points += here
    keys = [(colour, name(restriction)) for colour, restriction in enumerate(restrictions)]
    y_ticks = [(y(tick), f"{tick:.6g}") for tick in ticks(low, high)]
    return Drawing(name(dim), f"LLC ± standard error along {name(dim)}", drawn, points, keys, x_ticks, y_ticks)


def _point(
    x: float, run: str, restriction: str, coefficient: Coefficient, colour: int, y: Callable[[float], float]
) -> dict[str, Any]:
    low, high = _ends(coefficient)
    title = f"{name(run)}, {name(restriction)}: {number(coefficient.mean, coefficient.error)} ({coefficient.verdict})"
    place = {"x": x, "y": y(coefficient.mean), "low": y(low), "high": y(high)}
    return {**place, "colour": colour, "title": title, "is_bad": coefficient.verdict not in ("ok", "note")}


def _has(coefficients: Mapping[str, Mapping[str, Coefficient]], run: str, restriction: str) -> bool:
    return (
        run in coefficients and restriction in coefficients[run] and math.isfinite(coefficients[run][restriction].mean)
    )


def _ends(coefficient: Coefficient) -> tuple[float, float]:
    """Return one standard error to either side, where there is one."""
    size = coefficient.error if math.isfinite(coefficient.error) else 0.0
    return coefficient.mean - size, coefficient.mean + size


def _axis(labels: Sequence[Any]) -> tuple[dict[Any, float], list[tuple[float, str]]]:
    """Return where each label is, and the texts of the axis: numbers by size, logarithmic where they are so, words in turn."""
    are_numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in labels)
    if not are_numbers:
        values = np.arange(len(labels), dtype=float)
        every = -(-len(labels) // _MAX_WORDS)
        marks = [(float(n), name(label, 14)) for n, label in enumerate(labels) if n % every == 0]
    elif is_logarithmic(labels):
        smallest = min(each for each in labels if each > 0)
        # A zero in front stands one step before the smallest.
        values = np.array([math.log10(each) if each > 0 else math.log10(smallest) - 1 for each in labels])
        powers = range(math.ceil(values.min()), math.floor(values.max()) + 1)
        zero = math.log10(smallest) - 1
        marks = [(float(power), f"{10.0**power:g}") for power in powers if min(labels) > 0 or power > zero]
        marks += [(zero, "0")] if min(labels) == 0 else []
    else:
        values = np.asarray(labels, dtype=float)
        marks = [(tick, f"{tick:.6g}") for tick in ticks(float(values.min()), float(values.max()))]
    low, width = float(values.min()), float(np.ptp(values)) or 1.0

    def x(value: float) -> float:
        return round(LEFT + 12 + (value - low) / width * (WIDTH - LEFT - RIGHT - 24), 2)

    places = {label: x(float(value)) for label, value in zip(labels, values, strict=True)}
    return places, [(x(value), text) for value, text in marks]
