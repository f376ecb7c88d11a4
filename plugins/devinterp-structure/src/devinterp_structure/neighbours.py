r"""Nearest neighbours of tokens in the space of responses: all of them exactly, or most of them quickly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from devinterp import arguments
from devinterp.errors import InvalidInputError
from devinterp.schema import RESTRICTION, TOKEN
from devinterp_structure.approximate_neighbours import approximate, check_installed
from devinterp_structure.exact_neighbours import Metric, exact
from devinterp_structure.lazy import Array, Blocks, call, part
from devinterp_structure.matrix import LEFT_OUT_CHAIN, RESPONSE
from devinterp_structure.pca import COMPONENT, SCORE
from devinterp_structure.response import DEFAULT_STEPS, matrix_of
from devinterp_structure.steps import after, texts_last

NEIGHBOUR, DISTANCE, RANK = "neighbour", "distance", "rank"
#: As in arXiv:2601.12703.
DEFAULT_NUMBER = 45
#: Variables that results carry on from what they were made of.
ABOUT_TOKENS = ("token_ids",)


def neighbours(
    tree: xr.DataTree | xr.Dataset,
    *,
    num_neighbours: int = DEFAULT_NUMBER,
    metric: Metric = "euclidean",
    method: Literal["exact", "approximate"] = "exact",
    probes: int = 8,
    seed: int = 0,
    sampling_task: str | None = None,
    steps: Sequence[str] = DEFAULT_STEPS,
) -> xr.Dataset:
    r"""Compute the nearest neighbours of every token.

    Of rows of a response matrix, the space in which [1]_ looks for clusters, or of the scores of components, which is a
    projection of it. The exact search compares all pairs of tokens; the approximate one (faiss [2]_) sorts the tokens into
    cells around centres found by k-means, about 256 tokens in each, and compares a token with those of the nearest cells only.
    How many of the true neighbours that finds is measured. Lazy for a lazy tree.

    Parameters
    ----------
    tree : xarray.DataTree or xarray.Dataset
        A sampling run, or the result of ``tree.slt.response_matrix()`` or of ``tree.slt.pca()``.
    num_neighbours : int, default: 45
        How many of each token, less than there are tokens; the token itself is not one of them.
    metric : {"euclidean", "cosine"}, default: "euclidean"
        Distance between tokens; ``"cosine"`` is one minus the cosine of the angle between two rows.
    method : {"exact", "approximate"}, default: "exact"
        Whether to compare all pairs. The approximate search needs ``pip install "devinterp-structure[approximate]"``.
    probes : int, default: 8
        Of the approximate search: in how many of the cells nearest to a token its neighbours are looked for.
    seed : int, default: 0
        Of the approximate search.
    sampling_task : str, optional
        For a run: the observable made of the data that it was sampled on. For other options compute the matrix first.
    steps : sequence of str, default: ("z_score", "centre_rows")
        For a run: as in ``tree.slt.response_matrix()``.

    Returns
    -------
    xarray.Dataset
        - ``neighbour(token, rank)``: number of the row of each neighbour, the nearest first; of equal distances, that which the
          search finds first. ``distance(token, rank)``.
        - ``recall`` and ``recall_se``, of the approximate search: the mean share of the true neighbours that it finds and its
          standard error, from 1,000 tokens (or all) whose true neighbours are looked up.

        The attribute ``steps`` goes on from that of the matrix or the components.

    Raises
    ------
    InvalidInputError
        If there are too few tokens, or faiss is not installed; when it is computed, if a row has a NaN.

    References
    ----------
    .. [1] A. Gordon, G. Baker, G. Wang, W. Snell, S. van Wingerden, D. Murfet. Towards spectroscopy: susceptibility clusters in
       language models. arXiv:2601.12703.
    .. [2] M. Douze et al. The Faiss library. arXiv:2401.08281.
    """
    arguments.word("method", method, ("exact", "approximate"))
    arguments.word("metric", metric, get_args(Metric))
    source = points_of(tree, sampling_task, steps, needed_by="neighbours")
    points = coordinates(source)
    count = arguments.count("num_neighbours", num_neighbours, least=1)
    num_tokens = points.shape[0]
    if count >= num_tokens:
        raise InvalidInputError(f"`num_neighbours` (={count}) must be less than the number of tokens, {num_tokens}.")
    parameters: dict[str, Any] = {"num_neighbours": count, "metric": metric, "method": method}
    if method == "exact":
        solved = call(exact, points, count, metric)
    else:
        check_installed()
        probes = arguments.count("probes", probes, least=1)
        seed = arguments.count("seed", seed, least=0)
        parameters.update(probes=probes, seed=seed)
        solved = call(approximate, Blocks(points), count, metric, probes, seed)
    result = without_coordinates(source).assign_coords({RANK: np.arange(1, count + 1)})
    result[NEIGHBOUR] = ((TOKEN, RANK), part(solved, NEIGHBOUR, (num_tokens, count), np.int32))
    result[DISTANCE] = ((TOKEN, RANK), part(solved, DISTANCE, (num_tokens, count), np.float32))
    if method == "approximate":
        for name in ("recall", "recall_se"):
            result[name] = ((), part(solved, name, ()))
    result.attrs = after(source, "neighbours", parameters)
    return texts_last(result)


def points_of(
    tree: xr.DataTree | xr.Dataset, sampling_task: str | None, steps: Sequence[str], *, needed_by: str
) -> xr.Dataset:
    """Return what holds the coordinates of tokens: the scores that were given, or a response matrix."""
    if isinstance(tree, xr.Dataset) and SCORE in tree:
        extra = set(tree[SCORE].dims) - {TOKEN, COMPONENT}
        if extra:
            raise InvalidInputError(
                f"`{needed_by}` takes the components of one run; these have {', '.join(map(repr, map(str, extra)))} too."
            )
        return tree
    return matrix_of(tree, sampling_task, steps, needed_by=needed_by)


def coordinates(source: xr.Dataset) -> Array:
    """Return the coordinates of tokens, ``(token, column)``: scores where there are any, otherwise responses."""
    if SCORE in source:
        return source[SCORE].transpose(TOKEN, COMPONENT).data
    return source[RESPONSE].transpose(TOKEN, RESTRICTION).data


def without_coordinates(source: xr.Dataset) -> xr.Dataset:
    """Return what a matrix or components say of tokens beside their coordinates: labels and texts."""
    kept = source.drop_vars([name for name in source.data_vars if name not in ABOUT_TOKENS])
    return kept.drop_vars([name for name in (LEFT_OUT_CHAIN, RESTRICTION, COMPONENT) if name in kept.variables])
