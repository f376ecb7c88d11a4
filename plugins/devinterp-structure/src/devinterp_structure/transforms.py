r"""Steps from raw susceptibilities to a response matrix, each an affine map of a row: z-scores, centring, whitening.

All of them follow from the mean and the covariance of the raw columns, which take one pass over the tokens; a second pass
applies the product of all maps. Nothing of the size of the matrix is ever in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import linalg

from devinterp import arguments
from devinterp.errors import InvalidInputError
from devinterp_structure.column_moments import ColumnMoments

#: Directions whose variance is below this share of the largest are left out by whitening.
WHITENING_TOLERANCE = 1e-6


@dataclass(frozen=True)
class RowMap:
    r"""The affine map :math:`x \mapsto x A + b` of rows.

    Parameters
    ----------
    matrix, offset : numpy.ndarray
        :math:`A` ``(column, column)`` and :math:`b` ``(column,)``.
    """

    matrix: np.ndarray
    offset: np.ndarray

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the mapped rows, in double precision."""
        return np.asarray(np.asarray(rows, dtype=np.float64) @ self.matrix + self.offset)

    def mean(self, moments: ColumnMoments) -> np.ndarray:
        """Return the mean of the mapped rows, given the moments of the rows."""
        return np.asarray(moments.mean @ self.matrix + self.offset)

    def covariance(self, moments: ColumnMoments) -> np.ndarray:
        """Return the covariance of the columns of the mapped rows, given the moments of the rows."""
        return np.asarray(self.matrix.T @ moments.covariance @ self.matrix)


def z_score(current: RowMap, moments: ColumnMoments, names: Sequence[str]) -> RowMap:
    """Subtract from each column its mean and divide by its standard deviation."""
    spread = np.sqrt(np.maximum(np.diag(current.covariance(moments)), 0))
    # What differs between tokens by rounding only has no z-score.
    size = np.sqrt(spread**2 + current.mean(moments) ** 2)
    still = [name for name, s, all_ in zip(names, spread, size, strict=True) if not s > 1e-7 * all_]
    if still:
        raise InvalidInputError(
            f"step 'z_score': {', '.join(map(repr, still))} respond(s) to all tokens alike, so that there is no standard "
            "deviation to divide by: leave out these restrictions with `restrictions=`."
        )
    centred = centre_columns(current, moments, names)
    return RowMap(centred.matrix / spread, centred.offset / spread)


def centre_columns(current: RowMap, moments: ColumnMoments, names: Sequence[str]) -> RowMap:
    """Subtract from each column its mean."""
    return replace(current, offset=current.offset - current.mean(moments))


def centre_rows(current: RowMap, moments: ColumnMoments, names: Sequence[str]) -> RowMap:
    """Subtract from each row its mean over columns."""
    return RowMap(current.matrix - current.matrix.mean(axis=1, keepdims=True), current.offset - current.offset.mean())


def whiten(current: RowMap, moments: ColumnMoments, names: Sequence[str]) -> RowMap:
    r"""Multiply with the inverse square root of the covariance, which changes the matrix as little as that can be done.

    Directions without variance, such as that which centring of rows removes, stay without.
    """
    centred = centre_columns(current, moments, names)
    variance, directions = linalg.eigh(current.covariance(moments))
    kept = variance > WHITENING_TOLERANCE * max(variance[-1], 0)
    root = (directions[:, kept] / np.sqrt(variance[kept])) @ directions[:, kept].T
    return RowMap(centred.matrix @ root, centred.offset @ root)


#: The steps by name.
TRANSFORMS: dict[str, Callable[[RowMap, ColumnMoments, Sequence[str]], RowMap]] = {
    "z_score": z_score,
    "centre_columns": centre_columns,
    "centre_rows": centre_rows,
    "whiten": whiten,
}


def checked(steps: Sequence[str] | str) -> list[str]:
    """Return the names of steps, each of which must be known."""
    return [arguments.word("steps", step, tuple(TRANSFORMS)) for step in arguments.names("steps", steps)]


def row_map(moments: ColumnMoments, steps: Sequence[str], names: Sequence[str]) -> RowMap:
    """Return the product of all steps.

    Parameters
    ----------
    moments : ColumnMoments
        Of the rows before the first step.
    steps : sequence of str
        Names of steps, the first one first.
    names : sequence of str
        Names of the columns.
    """
    if moments.count < 2:
        raise InvalidInputError(f"a response matrix needs at least two tokens without NaN; there are {moments.count}.")
    current = RowMap(np.eye(len(moments.mean)), np.zeros(len(moments.mean)))
    for step in steps:
        current = TRANSFORMS[step](current, moments, names)
    return current
