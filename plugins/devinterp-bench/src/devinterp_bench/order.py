"""Whether estimates put problems in the order of their true coefficients, and which pairs could have been swapped at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations


@dataclass(frozen=True)
class Order:
    """Pairs of problems, and how many of them the estimates put in the right order.

    Parameters
    ----------
    pairs, in_order : int
        Pairs whose truths differ by more than twice the standard error of the difference of their estimates, and those of
        them in the right order. Pairs that are nearer to each other say nothing.
    close, close_in_order : int
        Those of `pairs` that errors as large as the measured ones could have swapped, had their signs been other ones: their
        truths differ by no more than the two errors together. The others are in order whatever a kernel does.
    """

    pairs: int
    in_order: int
    close: int
    close_in_order: int


def order_of(truths: Sequence[float], estimates: Sequence[float], errors: Sequence[float]) -> Order:
    """Return how many pairs of problems are in order.

    Parameters
    ----------
    truths : sequence of float
        The exact coefficients.
    estimates, errors : sequence of float
        Estimates and their standard errors, of the same problems. A NaN is out of order.
    """
    pairs = [(i, j) if truths[i] < truths[j] else (j, i) for i, j in combinations(range(len(truths)), 2)]
    apart = {(i, j): truths[j] - truths[i] for i, j in pairs if truths[i] != truths[j]}
    # Written so that a NaN counts as a pair that is not in order.
    distinct = [(i, j) for (i, j), gap in apart.items() if not gap <= 2 * math.hypot(errors[i], errors[j])]
    off = [abs(estimate - truth) for estimate, truth in zip(estimates, truths, strict=True)]
    close = [(i, j) for i, j in distinct if not apart[i, j] > off[i] + off[j]]
    return Order(
        pairs=len(distinct),
        in_order=sum(estimates[i] < estimates[j] for i, j in distinct),
        close=len(close),
        close_in_order=sum(estimates[i] < estimates[j] for i, j in close),
    )
