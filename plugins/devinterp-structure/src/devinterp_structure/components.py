"""Directions of largest variance: from a covariance, by scikit-learn's randomised solver, or block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from devinterp_structure.column_moments import ColumnMoments
from devinterp_structure.lazy import Array, call, row_blocks
from devinterp_structure.signal_variance import principal_directions

if TYPE_CHECKING:
    from sklearn.decomposition import IncrementalPCA

Method = Literal["covariance", "randomised", "incremental"]
#: Variances below this share of the largest are rounding of the inner products.
_ROUNDING = 1e-13


def components_of(
    moments: ColumnMoments, directions: np.ndarray | None, mean: np.ndarray | None, count: int = 0
) -> dict[str, np.ndarray]:
    """Return directions ``(column, component)``, the mean that is subtracted, and the variance of the scores.

    Parameters
    ----------
    moments : ColumnMoments
        Of the matrix.
    directions : numpy.ndarray, optional
        Directions that are known already; default: the `count` principal ones.
    mean : numpy.ndarray, optional
        What is subtracted from each row; default: the mean of the rows.
    count : int, optional
        Number of components.
    """
    covariance = moments.covariance
    if directions is None:
        directions = with_signs(principal_directions(covariance, count)[1])
    variance = np.einsum("ik,ij,jk->k", directions, covariance, directions)
    total = np.trace(covariance)
    return {
        "directions": directions,
        "mean": moments.mean if mean is None else mean,
        "explained_variance": variance,
        "explained_variance_ratio": variance / total if total > 0 else np.full_like(variance, np.nan),
        "total_variance": np.asarray(total),
    }


def with_signs(directions: np.ndarray) -> np.ndarray:
    """Return directions ``(column, component)``, turned so that the entry of largest size of each is positive.

    Of entries that are as large up to rounding, the first one counts.
    """
    sizes = np.abs(directions)
    largest = (sizes > sizes.max(axis=0) * (1 - 1e-6)).argmax(axis=0)
    signs = np.sign(directions[largest, np.arange(directions.shape[1])])
    return np.asarray(directions * np.where(signs == 0, 1.0, signs))


def principal_coordinates(products: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points ``(point, component)`` along their directions of largest variance, from their inner products alone.

    Parameters
    ----------
    products : numpy.ndarray
        Inner products ``(point, point)``, about whatever origin: the points' mean becomes it.
    count : int
        Number of components.

    Returns
    -------
    coordinates : numpy.ndarray
        Signed as by `with_signs`.
    shares : numpy.ndarray
        Of the variance, ``(component,)``; NaN where all points are one.
    """
    centred = products - products.mean(0) - products.mean(1)[:, None] + products.mean()
    values, vectors = np.linalg.eigh(centred)
    values, directions = values[::-1], with_signs(vectors[:, ::-1][:, :count])
    values = np.where(values > _ROUNDING * values[0], values, 0.0)
    total = values.sum()
    shares = values[:count] / total if total > 0 else np.full(count, np.nan)
    return directions * np.sqrt(values[:count]), shares


def directions_by(method: Method, rows: Array, count: int, seed: int) -> Any:
    """Return principal directions ``(column, component)`` by a solver of scikit-learn; delayed for a Dask array."""
    if method == "randomised":
        return call(_randomised, rows, count, seed)
    fitted: Any = None
    for block in row_blocks(rows):
        fitted = call(_fitted_further, block, fitted, count)
    return call(_directions, fitted)


def _randomised(rows: np.ndarray, count: int, seed: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    solver = PCA(count, svd_solver="randomized", random_state=seed, iterated_power=7)
    return np.asarray(solver.fit(_whole_rows(rows)).components_.T, dtype=np.float64)


def _fitted_further(rows: np.ndarray, fitted: IncrementalPCA | None, count: int) -> IncrementalPCA:
    """Return the solver after a further block, as an object of its own: Dask may call this twice."""
    from sklearn.decomposition import IncrementalPCA

    solver = IncrementalPCA(count)
    if fitted is not None:
        solver.__dict__.update(fitted.__dict__)
    rows = _whole_rows(rows)
    # scikit-learn takes no block with fewer rows than components: it is cut into pieces of which the last is long enough.
    pieces = max(1, len(rows) // max(5 * rows.shape[1], count))
    for some in np.array_split(rows, pieces):
        if len(some):
            solver.partial_fit(some)
    return solver


def _directions(fitted: IncrementalPCA) -> np.ndarray:
    return np.asarray(fitted.components_.T, dtype=np.float64)


def _whole_rows(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float64)
    return np.asarray(rows[~np.isnan(rows).any(axis=1)])
