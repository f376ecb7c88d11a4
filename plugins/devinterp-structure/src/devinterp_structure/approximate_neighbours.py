"""Approximate nearest neighbours by faiss: tokens in cells, of which only the nearest are searched. The only user of faiss."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np

from devinterp.errors import InvalidInputError
from devinterp_structure.exact_neighbours import Metric, checked, share_of_pairs, without_self
from devinterp_structure.lazy import Blocks

#: Tokens of a cell, and tokens from which the centre of a cell is found.
_TOKENS_IN_CELL, _TRAINED_ON = 256, 64
_ITERATIONS = 10
#: Tokens that are searched at a time.
_QUERIES = 16384
#: Points whose true neighbours are found, to see how many of them an approximate search finds.
_JUDGED = 1000


def check_installed() -> None:
    """Raise an `InvalidInputError` if faiss is not installed."""
    if importlib.util.find_spec("faiss") is None:
        raise InvalidInputError(
            "method='approximate' needs faiss: `pip install \"devinterp-structure[approximate]\"`, or pass method='exact'."
        )


def approximate(blocks: Blocks, count: int, metric: Metric, probes: int, seed: int) -> dict[str, np.ndarray]:
    """Return neighbours of every point, their distances, and how many of the true neighbours are among them.

    ``neighbour`` and ``distance`` ``(point, rank)``, -1 and infinite where too few points were in the cells; ``recall`` and
    ``recall_se``. No more than the index, which holds the points, and one block of them is in memory.

    Parameters
    ----------
    blocks : Blocks
        The points ``(point, column)``.
    count : int
        Neighbours of each.
    metric : {"euclidean", "cosine"}
        The distance.
    probes : int
        Cells that are searched.
    seed : int
        Of the search for centres, and of the choice of the points that are judged.
    """
    index = _index(blocks, metric, seed)
    index.nprobe = min(probes, index.nlist)
    num_points = blocks.shape[0]
    numbers, distances = np.empty((num_points, count), np.int32), np.empty((num_points, count), np.float32)
    start = 0
    for block in _points(blocks, metric):
        for first in range(0, len(block), _QUERIES):
            some = block[first : first + _QUERIES]
            own = np.arange(start, start + len(some))
            squares, nearest = index.search(some, count + 1)
            nearest, squares = without_self(nearest, squares, own)
            numbers[own], distances[own] = nearest, _distance(squares, metric)
            start += len(some)
    shares = _shares_of_true(blocks, numbers, metric, seed)
    error = shares.std(ddof=1) / np.sqrt(len(shares)) if len(shares) > 1 else np.nan
    return {"neighbour": numbers, "distance": distances, "recall": shares.mean(), "recall_se": np.asarray(error)}


def _points(blocks: Blocks, metric: Metric) -> Iterator[np.ndarray]:
    """Yield blocks of points, in a space whose Euclidean distance orders them as the metric does."""
    for block in blocks:
        points = checked(np.ascontiguousarray(block, dtype=np.float32))
        if metric == "cosine":
            lengths = np.linalg.norm(points, axis=1, keepdims=True)
            points = np.ascontiguousarray(points / np.where(lengths > 0, lengths, 1))
        yield points


def _index(blocks: Blocks, metric: Metric, seed: int) -> Any:
    """Return faiss's index of all points, in cells."""
    import faiss

    num_points, width = blocks.shape
    num_cells = max(1, num_points // _TOKENS_IN_CELL)
    quantiser = faiss.IndexFlatL2(width)
    index = faiss.IndexIVFFlat(quantiser, width, num_cells)
    index.cp.seed, index.cp.niter, index.cp.max_points_per_centroid = seed + 1, _ITERATIONS, _TRAINED_ON
    index.cp.min_points_per_centroid = 1  # faiss would warn, on standard error, of the few tokens of a small matrix
    chosen = np.random.default_rng(seed).permutation(num_points)[: num_cells * _TRAINED_ON]
    index.train(_rows(blocks, np.sort(chosen), metric))
    for block in _points(blocks, metric):
        index.add(block)
    return index


def _rows(blocks: Blocks, chosen: np.ndarray, metric: Metric) -> np.ndarray:
    """Return some of the points, given by their numbers in increasing order."""
    parts, start = [], 0
    for block in _points(blocks, metric):
        here = chosen[(chosen >= start) & (chosen < start + len(block))]
        parts.append(block[here - start])
        start += len(block)
    return np.concatenate(parts)


def _shares_of_true(blocks: Blocks, numbers: np.ndarray, metric: Metric, seed: int) -> np.ndarray:
    """Return, for some points, the share of their true neighbours among those that were found."""
    import faiss

    num_points, count = numbers.shape
    chosen = np.sort(np.random.default_rng(seed).choice(num_points, min(_JUDGED, num_points), replace=False))
    queries = _rows(blocks, chosen, metric)
    nearest, squares, start = np.empty((len(chosen), 0), np.int64), np.empty((len(chosen), 0), np.float32), 0
    for block in _points(blocks, metric):
        square, number = faiss.knn(queries, block, min(count + 1, len(block)))
        squares, nearest = np.concatenate([squares, square], 1), np.concatenate([nearest, number + start], 1)
        order = np.argsort(squares, axis=1, kind="stable")[:, : count + 1]
        squares, nearest = np.take_along_axis(squares, order, 1), np.take_along_axis(nearest, order, 1)
        start += len(block)
    return share_of_pairs(without_self(nearest, squares, chosen)[0], numbers[chosen])


def _distance(squares: np.ndarray, metric: Metric) -> np.ndarray:
    squares = np.where(squares >= np.finfo(np.float32).max, np.inf, np.maximum(squares, 0))
    return np.sqrt(squares) if metric == "euclidean" else squares / 2
