"""Number, mean and covariance of the rows of a matrix, in one pass over its blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from devinterp_structure.lazy import Array, call, reduced, row_blocks

#: Rows that are centred and multiplied at a time, in double precision.
_ROWS = 4096


@dataclass(frozen=True)
class ColumnMoments:
    """What a principal component analysis needs to know of the rows of a matrix.

    Parameters
    ----------
    count : int
        Number of rows without a NaN.
    mean : numpy.ndarray
        Their mean ``(column,)``.
    comoment : numpy.ndarray
        The sum over rows of the products of their distances from the mean, ``(column, column)``.
    """

    count: int
    mean: np.ndarray
    comoment: np.ndarray

    @property
    def covariance(self) -> np.ndarray:
        """The covariance of the columns, with the number of rows as divisor, as the z-score of susceptibilities has it."""
        return self.comoment / max(self.count, 1)


def column_moments(rows: Array) -> Any:
    """Return the `ColumnMoments` of a matrix ``(row, column)``; rows with a NaN do not count. Delayed for a Dask array."""
    return reduced([call(of_block, block) for block in row_blocks(rows)], joined)


def of_block(rows: np.ndarray) -> ColumnMoments:
    """Return the moments of rows in memory, in double precision."""
    width = rows.shape[1]
    total = ColumnMoments(0, np.zeros(width), np.zeros((width, width)))
    for start in range(0, len(rows), _ROWS):
        some = np.asarray(rows[start : start + _ROWS], dtype=np.float64)
        some = some[~np.isnan(some).any(axis=1)]
        if len(some):
            mean = some.mean(axis=0)
            centred = some - mean
            total = joined(total, ColumnMoments(len(some), mean, centred.T @ centred))
    return total


def joined(*parts: ColumnMoments) -> ColumnMoments:
    """Return the moments of all rows from those of parts [1]_.

    References
    ----------
    .. [1] T. F. Chan, G. H. Golub, R. J. LeVeque. Algorithms for computing the sample variance. The American Statistician 37
       (1983), doi:10.1080/00031305.1983.10483115.
    """
    first, *others = parts
    count, mean, comoment = first.count, first.mean, first.comoment
    for other in others:
        total = count + other.count
        if other.count == 0:
            continue
        distance = other.mean - mean
        mean = mean + distance * (other.count / total)
        comoment = comoment + other.comoment + np.outer(distance, distance) * (count * other.count / total)
        count = total
    return ColumnMoments(count, mean, comoment)
