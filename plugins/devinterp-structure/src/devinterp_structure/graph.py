"""The graph of nearest neighbours, PageRank from one token, and the conductance of sets of tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from devinterp.errors import InvalidInputError


@dataclass(frozen=True)
class Graph:
    """An undirected graph, as its symmetric adjacency matrix and what is often asked of it.

    Parameters
    ----------
    adjacency : scipy.sparse.csr_array
        Weights of edges ``(token, token)``.
    degree : numpy.ndarray
        Sum of the weights of each token's edges.
    """

    adjacency: sparse.csr_array
    degree: np.ndarray

    @classmethod
    def of(cls, neighbours: np.ndarray) -> Graph:
        """Return the graph with an edge between two tokens if either is a neighbour of the other, of weight 1.

        Parameters
        ----------
        neighbours : numpy.ndarray
            Numbers of tokens ``(token, rank)``; below 0 for none.
        """
        num_tokens, count = neighbours.shape
        rows, columns = np.repeat(np.arange(num_tokens, dtype=np.int32), count), neighbours.ravel().astype(np.int32)
        there = columns >= 0
        ones = np.ones(int(there.sum()))
        directed = sparse.coo_array((ones, (rows[there], columns[there])), shape=(num_tokens, num_tokens)).tocsr()
        adjacency = directed.maximum(directed.T).tocsr()
        return cls(adjacency, np.asarray(adjacency.sum(axis=1)).ravel())


def pagerank(graph: Graph, seed: int, alpha: float, tolerance: float) -> np.ndarray:
    r"""Return the personalised PageRank of a token [1]_, ``(token,)``, which sums to one.

    The stationary law of a random walk over edges that returns to the seed with probability :math:`\alpha` at each step,
    :math:`p = \alpha e_s + (1 - \alpha)\, A D^{-1} p`, solved by conjugate gradients in the symmetric form
    :math:`(D - (1 - \alpha) A)\, x = \alpha e_s` with :math:`p = D x`, in about :math:`\alpha^{-1/2}` rather than
    :math:`\alpha^{-1}` products with :math:`A`.

    Parameters
    ----------
    graph : Graph
        The graph.
    seed : int
        Number of the token.
    alpha : float
        Probability of a return.
    tolerance : float
        The error that is left, as a share of the seed's.

    References
    ----------
    .. [1] R. Andersen, F. Chung, K. Lang. Local graph partitioning using PageRank vectors. FOCS (2006),
       doi:10.1109/FOCS.2006.44.
    """
    from scipy.sparse.linalg import LinearOperator, cg

    degree = np.where(graph.degree > 0, graph.degree, 1.0)
    size = (len(degree), len(degree))
    system = LinearOperator(size, matvec=lambda x: degree * x - (1 - alpha) * (graph.adjacency @ x), dtype=float)
    scale = LinearOperator(size, matvec=lambda x: x / degree, dtype=float)
    start = np.zeros(len(degree))
    start[seed] = alpha
    solution, failed = cg(system, start, rtol=tolerance, atol=0.0, M=scale, maxiter=int(200 / np.sqrt(alpha)))
    if failed:
        raise InvalidInputError(f"PageRank does not converge to `tolerance` (={tolerance}): pass a larger one.")
    return np.asarray(np.maximum(degree * solution, 0))


def conductances(graph: Graph, order: np.ndarray) -> np.ndarray:
    r"""Return the conductance of the first tokens in an order, for every number of them, ``(number,)``.

    Of a set :math:`S` of tokens, the weight of edges that leave it over the sum of degrees within it or outside of it,
    whichever is smaller; infinite where one of these is 0.
    """
    place = np.full(len(graph.degree), len(order))
    place[order] = np.arange(len(order))
    rows = graph.adjacency[order].tocoo()
    # Of an edge to a token that comes earlier, the weight was counted as leaving the set once and is now within it.
    later = place[rows.coords[1]] > rows.coords[0]
    leaving = np.bincount(rows.coords[0], np.where(later, rows.data, -rows.data), minlength=len(order))
    cut, volume = np.cumsum(leaving), np.cumsum(graph.degree[order])
    smaller = np.minimum(volume, graph.degree.sum() - volume)
    return np.where(smaller > 0.5, cut / np.where(smaller > 0.5, smaller, 1), np.inf)


def conductance_of(graph: Graph, labels: np.ndarray) -> np.ndarray:
    """Return the conductance of each token's cluster ``(token,)``; NaN for tokens with a label below 0.

    Parameters
    ----------
    graph : Graph
        The graph.
    labels : numpy.ndarray
        The cluster of each token.
    """
    count = int(labels.max(initial=-1)) + 1
    edges = graph.adjacency.tocoo()
    from_, to = labels[edges.coords[0]], labels[edges.coords[1]]
    leaving = (from_ >= 0) & (from_ != to)
    cut = np.bincount(from_[leaving], edges.data[leaving], minlength=count)
    volume = np.bincount(labels[labels >= 0], graph.degree[labels >= 0], minlength=count)
    smaller = np.minimum(volume, graph.degree.sum() - volume)
    values = np.append(np.where(smaller > 0, cut / np.where(smaller > 0, smaller, 1), 0.0), np.nan)
    return values[np.where(labels >= 0, labels, count)]
