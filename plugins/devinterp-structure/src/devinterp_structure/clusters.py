r"""Clusters of tokens that respond alike: sets that few edges of the neighbour graph leave, or by a method of scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from devinterp import arguments
from devinterp.errors import InvalidInputError
from devinterp.schema import TOKEN
from devinterp_structure.approximate_neighbours import approximate, check_installed
from devinterp_structure.column_moments import of_block
from devinterp_structure.exact_neighbours import Metric, checked, exact
from devinterp_structure.gaussian_null import gaussian_rows
from devinterp_structure.graph import Graph, conductance_of
from devinterp_structure.lazy import Blocks, call, part
from devinterp_structure.neighbours import DEFAULT_NUMBER, coordinates, points_of, without_coordinates
from devinterp_structure.response import DEFAULT_STEPS
from devinterp_structure.steps import after, texts_last
from devinterp_structure.sweeps import Sweeps, clusters_by_sweeps, lowest_of_cloud

CLUSTER = "cluster"
Method = Literal["pagerank", "hdbscan", "spectral"]
Search = Literal["exact", "approximate"]
#: Cells that an approximate search of neighbours looks into.
_PROBES = 8


def clusters(
    tree: xr.DataTree | xr.Dataset,
    *,
    method: Method = "pagerank",
    num_clusters: int | None = None,
    min_size: int = 20,
    num_neighbours: int = DEFAULT_NUMBER,
    metric: Metric = "euclidean",
    search: Search = "exact",
    alpha: float = 1e-3,
    tolerance: float = 1e-7,
    max_share: float = 0.99,
    patience: int = 20,
    seed: int = 0,
    sampling_task: str | None = None,
    steps: Sequence[str] = DEFAULT_STEPS,
) -> xr.Dataset:
    r"""Compute clusters of tokens whose rows of the response matrix are alike.

    ``"pagerank"``, after [1]_: tokens and their nearest neighbours are a graph; from a seed, tokens are ordered by their
    personalised PageRank over their degree, and the first of them up to a dip of the conductance (edges that leave the set,
    over the edges it has) are a cluster. The next seed is the token with the nearest neighbours of those that are left. How
    low a dip must be is learnt from a Gaussian cloud of the same mean and covariance, in which there are no clusters: half of
    the lowest conductance of as many of its tokens. Where nothing is below that, no token has a cluster. Neighbours, PageRank
    and sweep are those of [1]_ with its settings as defaults; seeds, dips and the comparison with a cloud are our own.

    Parameters
    ----------
    tree : xarray.DataTree or xarray.Dataset
        A sampling run, or the result of ``tree.slt.response_matrix()`` or of ``tree.slt.pca()``.
    method : {"pagerank", "hdbscan", "spectral"}, default: "pagerank"
        As above; or scikit-learn's HDBSCAN of the rows, or its spectral clustering of the neighbour graph, which gives every
        token a cluster whether there are any or not.
    num_clusters : int, optional
        Needed by, and for, ``"spectral"``.
    min_size : int, default: 20
        Least number of tokens of a cluster (not of ``"spectral"``).
    num_neighbours : int, default: 45
        Of the graph: an edge joins two tokens if either is among the nearest neighbours of the other.
    metric : {"euclidean", "cosine"}, default: "euclidean"
        Distance between tokens.
    search : {"exact", "approximate"}, default: "exact"
        Of the neighbours, as ``method`` in ``tree.slt.neighbours()``.
    alpha : float, default: 0.001
        Probability that the walk of PageRank returns to the seed, at each step; above 0, below 1.
    tolerance : float, default: 1e-7
        Of PageRank.
    max_share : float, default: 0.99
        A set with more than this share of all edges is the main body and no cluster; above 0, at most 1.
    patience : int, default: 20
        The search ends when from so many seeds in a row no cluster was found.
    seed : int, default: 0
        Of the Gaussian cloud, of the spectral method, and of an approximate search.
    sampling_task : str, optional
        For a run: the observable made of the data that it was sampled on. For other options compute the matrix first.
    steps : sequence of str, default: ("z_score", "centre_rows")
        For a run: as in ``tree.slt.response_matrix()``.

    Returns
    -------
    xarray.Dataset
        ``cluster(token)``, from 0 in the order in which they were found, -1 for tokens in none; ``conductance(token)`` of the
        token's cluster in the neighbour graph, whatever the method, NaN for tokens in none. The attribute ``steps`` goes on
        from that of the matrix or the components. `devinterp_structure.cluster_table` lists the clusters with texts.

    Raises
    ------
    InvalidInputError
        If an option cannot be, or there are too few tokens; when it is computed, if a row has a NaN.

    References
    ----------
    .. [1] A. Gordon, G. Baker, G. Wang, W. Snell, S. van Wingerden, D. Murfet. Towards spectroscopy: susceptibility clusters in
       language models. arXiv:2601.12703.
    """
    source = points_of(tree, sampling_task, steps, needed_by="clusters")
    points = coordinates(source)
    options = Options(
        method=method,
        num_clusters=num_clusters,
        sweeps=Sweeps(alpha, tolerance, min_size, max_share, patience),
        num_neighbours=num_neighbours,
        metric=metric,
        search=search,
        seed=seed,
    )
    options.check(points.shape[0])
    solved = call(labelled, points, options)
    result = without_coordinates(source)
    result[CLUSTER] = (TOKEN, part(solved, CLUSTER, points.shape[:1], np.int32))
    result["conductance"] = (TOKEN, part(solved, "conductance", points.shape[:1]))
    result.attrs = after(source, "clusters", options.parameters())
    return texts_last(result)


@dataclass(frozen=True)
class Options:
    """How clusters are found; parameters as of `clusters`."""

    method: Method
    num_clusters: int | None
    sweeps: Sweeps
    num_neighbours: int
    metric: Metric
    search: Search
    seed: int

    def check(self, num_tokens: int) -> None:
        """Raise an `InvalidInputError` if an option cannot be."""
        arguments.word("method", self.method, get_args(Method))
        arguments.word("metric", self.metric, get_args(Metric))
        arguments.word("search", self.search, get_args(Search))
        for name in ("min_size", "patience"):
            arguments.count(name, getattr(self.sweeps, name), least=2 if name == "min_size" else 1)
        for name in ("alpha", "tolerance", "max_share"):
            value = arguments.number(name, getattr(self.sweeps, name), positive=True)
            if value > 1 or (value == 1 and name != "max_share"):
                raise InvalidInputError(f"`{name}` (={value}) must be below 1.")
        arguments.count("seed", self.seed, least=0)
        count = arguments.count("num_neighbours", self.num_neighbours, least=1)
        if count >= num_tokens:
            raise InvalidInputError(
                f"`num_neighbours` (={count}) must be less than the number of tokens, {num_tokens}."
            )
        if self.search == "approximate":
            check_installed()
        if (self.method == "spectral") != (self.num_clusters is not None):
            raise InvalidInputError("method='spectral' needs `num_clusters`, and no other method takes it.")
        if self.num_clusters is not None:
            arguments.count("num_clusters", self.num_clusters, least=2)

    def parameters(self) -> dict[str, Any]:
        """Return what decides the result, for its steps."""
        graph = {"num_neighbours": self.num_neighbours, "metric": self.metric, "search": self.search}
        if self.method == "hdbscan":
            return {"method": self.method, "min_size": self.sweeps.min_size, **graph}
        if self.method == "spectral":
            return {"method": self.method, "num_clusters": self.num_clusters, **graph, "seed": self.seed}
        return {"method": self.method, **vars(self.sweeps), **graph, "seed": self.seed}


def labelled(points: np.ndarray, options: Options) -> dict[str, np.ndarray]:
    """Return ``cluster`` and ``conductance`` of points ``(token, column)``."""
    labels, near = labelled_with_neighbours(points, options)
    return {CLUSTER: labels, "conductance": conductance_of(Graph.of(near), labels)}


def labelled_with_neighbours(points: np.ndarray, options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Return the cluster ``(token,)`` and the neighbours ``(token, rank)`` of points ``(token, column)``."""
    from sklearn.cluster import HDBSCAN, SpectralClustering

    points = checked(np.asarray(points, dtype=np.float32))
    near = nearest(points, options, options.seed)
    graph = Graph.of(near["neighbour"])
    if options.method == "pagerank":
        rng = np.random.default_rng(options.seed)
        cloud = gaussian_rows(of_block(points), len(points), rng).astype(np.float32)
        lowest = lowest_of_cloud(Graph.of(nearest(cloud, options, options.seed)["neighbour"]), options.sweeps, rng)
        labels = clusters_by_sweeps(graph, -near["distance"].max(axis=1), lowest, options.sweeps)
    elif options.method == "hdbscan":
        labels = HDBSCAN(min_cluster_size=options.sweeps.min_size, metric=options.metric, copy=True).fit_predict(points)
    else:
        solver = SpectralClustering(options.num_clusters, affinity="precomputed", random_state=options.seed)
        labels = solver.fit_predict(graph.adjacency)
    return np.asarray(labels), near["neighbour"]


def nearest(points: np.ndarray, options: Options, seed: int) -> dict[str, np.ndarray]:
    """Return the nearest neighbours of points."""
    if options.search == "exact":
        return exact(points, options.num_neighbours, options.metric)
    return approximate(Blocks(points), options.num_neighbours, options.metric, _PROBES, seed)
