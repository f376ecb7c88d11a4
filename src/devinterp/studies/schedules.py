"""Steps of a training run at which to sample: evenly or logarithmically spaced, and unions of such."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from devinterp.errors import InvalidInputError


def evenly_spaced(last: int, every: int, *, first: int = 0) -> list[int]:
    """Return every so many steps from the first to the last, which is among them.

    Parameters
    ----------
    last : int
        The last step, at least `first`.
    every : int
        Steps from one to the next, at least 1.
    first : int, default: 0
        The first step.

    Raises
    ------
    InvalidInputError
        If a number is out of range.
    """
    if every < 1 or not 0 <= first <= last:
        raise InvalidInputError(f"expected 0 <= first <= last and every >= 1; got {first=}, {last=}, {every=}.")
    return union(range(first, last + 1, every), [last])


def log_spaced(last: int, num: int, *, first: int = 1, with_zero: bool = True) -> list[int]:
    """Return steps whose ratios are about equal, from the first to the last.

    Parameters
    ----------
    last : int
        The last step, at least `first`.
    num : int
        How many to spread between both, them included, at least 2; those that round to the same step are one.
    first : int, default: 1
        The first step, at least 1.
    with_zero : bool, default: True
        Whether step 0, before training, is added.

    Raises
    ------
    InvalidInputError
        If a number is out of range.
    """
    if num < 2 or not 1 <= first <= last:
        raise InvalidInputError(f"expected 1 <= first <= last and num >= 2; got {first=}, {last=}, {num=}.")
    steps = np.round(np.geomspace(first, last, num)).astype(int).tolist()
    return union(steps, [0] if with_zero else [])


def union(*schedules: Iterable[int]) -> list[int]:
    """Return the steps of several schedules, each once, in increasing order."""
    steps = sorted({int(step) for schedule in schedules for step in schedule})
    if steps and steps[0] < 0:
        raise InvalidInputError(f"a step (={steps[0]}) must be at least 0.")
    return steps
