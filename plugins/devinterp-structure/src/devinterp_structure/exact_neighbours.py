"""Exact nearest neighbours by scikit-learn, which compares all pairs in blocks that fit into the processor's cache."""

from __future__ import annotations

from typing import Literal

import numpy as np

from devinterp.errors import InvalidInputError

Metric = Literal["euclidean", "cosine"]


def exact(points: np.ndarray, count: int, metric: Metric) -> dict[str, np.ndarray]:
    """Return ``neighbour`` and ``distance`` of every point, both ``(point, rank)``.

    Parameters
    ----------
    points : numpy.ndarray
        ``(point, column)``.
    count : int
        Neighbours of each; a point is no neighbour of itself.
    metric : {"euclidean", "cosine"}
        The distance.

    Raises
    ------
    InvalidInputError
        If a coordinate is NaN.
    """
    from sklearn.neighbors import NearestNeighbors

    points = checked(np.ascontiguousarray(points))
    search = NearestNeighbors(n_neighbors=count, algorithm="brute", metric=metric).fit(points)
    distances, numbers = search.kneighbors()
    return {"neighbour": numbers.astype(np.int32), "distance": distances.astype(np.float32)}


def without_self(numbers: np.ndarray, distances: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leave out each point from its own neighbours, or the last of these where it is not among them (of equal points)."""
    is_own = numbers == own[:, None]
    is_own[~is_own.any(axis=1), -1] = True
    shape = (len(numbers), numbers.shape[1] - 1)
    return numbers[~is_own].reshape(shape), distances[~is_own].reshape(shape)


def checked(points: np.ndarray) -> np.ndarray:
    """Return points without NaN, or say how many have one."""
    missing = int(np.isnan(points).any(axis=1).sum())
    if missing:
        raise InvalidInputError(
            f"{missing} of {len(points)} tokens have a response that is NaN: leave them out with `matrix.dropna('token')`."
        )
    return points


def share_of_pairs(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the share of each point's neighbours in `one` that `other` has too, ``(point,)``; numbers below 0 are none."""
    shared = np.array(
        [len(np.intersect1d(a[a >= 0], b[b >= 0], assume_unique=True)) for a, b in zip(one, other, strict=True)]
    )
    return np.asarray(shared / np.maximum((one >= 0).sum(axis=1), 1))
