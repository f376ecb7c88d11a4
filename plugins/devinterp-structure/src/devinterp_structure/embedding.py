"""A picture of the neighbour graph in a few dimensions, by UMAP. The only user of umap-learn."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import xarray as xr

from devinterp import arguments
from devinterp.errors import InvalidInputError
from devinterp.schema import TOKEN
from devinterp_structure.exact_neighbours import Metric, checked
from devinterp_structure.lazy import call, part
from devinterp_structure.loss_kernel import KERNEL, OTHER, SAMPLE
from devinterp_structure.neighbours import DEFAULT_NUMBER, coordinates, points_of, without_coordinates
from devinterp_structure.response import DEFAULT_STEPS
from devinterp_structure.steps import after, texts_last

AXIS = "axis"


def embedding(
    tree: xr.DataTree | xr.Dataset,
    *,
    num_axes: int = 2,
    num_neighbours: int = DEFAULT_NUMBER,
    metric: Metric = "euclidean",
    min_distance: float = 0.1,
    seed: int = 0,
    sampling_task: str | None = None,
    steps: Sequence[str] = DEFAULT_STEPS,
) -> xr.Dataset:
    r"""Compute a low-dimensional picture of tokens, or of sequences, in which neighbours stay near, by UMAP [1]_.

    Distances and sizes in it mean little: it is a picture of clusters and neighbours, which are computed, with their stability,
    in the space of responses. Needs ``pip install "devinterp-structure[umap]"``.

    Parameters
    ----------
    tree : xarray.DataTree or xarray.Dataset
        A sampling run, or the result of ``tree.slt.response_matrix()``, of ``tree.slt.pca()``, or of
        ``tree.slt.loss_kernel()``, which gives a picture of its sequences.
    num_axes : int, default: 2
        Dimensions of the picture.
    num_neighbours : int, default: 45
        Neighbours of each token; fewer than there are tokens, at least 2.
    metric : {"euclidean", "cosine"}, default: "euclidean"
        Distance between tokens; of a loss kernel, whose rows are inner products, :math:`\sqrt{2 (1 - K_{xy})}` or
        :math:`1 - K_{xy}`.
    min_distance : float, default: 0.1
        Least distance of tokens in the picture; at least 0.
    seed : int, default: 0
        Of the search.
    sampling_task : str, optional
        For a run: the observable made of the data that it was sampled on. For other options compute the matrix first.
    steps : sequence of str, default: ("z_score", "centre_rows")
        For a run: as in ``tree.slt.response_matrix()``.

    Returns
    -------
    xarray.Dataset
        ``embedding(token, axis)``, of a loss kernel ``embedding(sample, axis)`` with its labels. The attribute ``steps`` goes
        on from that of the matrix, the components or the kernel.

    Raises
    ------
    InvalidInputError
        If umap-learn is not installed, or an option cannot be; when it is computed, if a row has a NaN.

    References
    ----------
    .. [1] L. McInnes, J. Healy, J. Melville. UMAP: uniform manifold approximation and projection. arXiv:1802.03426.
    """
    if importlib.util.find_spec("umap") is None:
        raise InvalidInputError('`embedding` needs umap-learn: `pip install "devinterp-structure[umap]"`.')
    arguments.word("metric", metric, get_args(Metric))
    num_axes = arguments.count("num_axes", num_axes, least=1)
    count = arguments.count("num_neighbours", num_neighbours, least=2)
    parameters: dict[str, Any] = {
        "num_axes": num_axes,
        "num_neighbours": count,
        "metric": metric,
        "min_distance": arguments.number("min_distance", min_distance),
        "seed": arguments.count("seed", seed, least=0),
    }
    if isinstance(tree, xr.Dataset) and KERNEL in tree:
        _check_count(count, tree.sizes[SAMPLE], "sequences")
        places = _embedded(_distances(tree, metric), **{**parameters, "metric": "precomputed"})["embedding"]
        labels = {name: label.variable for name, label in tree.coords.items() if label.dims == (SAMPLE,)}
        return xr.Dataset({"embedding": ((SAMPLE, AXIS), places)}, labels, after(tree, "embedding", parameters))
    source = points_of(tree, sampling_task, steps, needed_by="embedding")
    points = coordinates(source)
    _check_count(count, points.shape[0], "tokens")
    solved = call(_embedded, points, **parameters)
    result = without_coordinates(source)
    result["embedding"] = ((TOKEN, AXIS), part(solved, "embedding", (points.shape[0], num_axes), np.float32))
    result.attrs = after(source, "embedding", parameters)
    return texts_last(result)


def _check_count(count: int, number: int, what: str) -> None:
    if count >= number:
        raise InvalidInputError(f"`num_neighbours` (={count}) must be less than the number of {what}, {number}.")


def _distances(kernel: xr.Dataset, metric: Metric) -> np.ndarray:
    """Return distances ``(sample, other sample)`` from correlations."""
    products = kernel[KERNEL].transpose(SAMPLE, OTHER).to_numpy().astype(np.float64)
    apart = np.maximum(1 - (products + products.T) / 2, 0.0)
    np.fill_diagonal(apart, 0.0)
    return np.sqrt(2 * apart) if metric == "euclidean" else apart


def _embedded(
    points: np.ndarray, *, num_axes: int, num_neighbours: int, metric: str, min_distance: float, seed: int
) -> dict[str, np.ndarray]:
    from umap import UMAP

    # With a seed UMAP takes one thread, and the same numbers come out.
    solver = UMAP(
        n_neighbors=num_neighbours,
        n_components=num_axes,
        metric=metric,
        min_dist=min_distance,
        random_state=seed,
        n_jobs=1,
    )
    return {"embedding": solver.fit_transform(checked(np.asarray(points, dtype=np.float32)))}
