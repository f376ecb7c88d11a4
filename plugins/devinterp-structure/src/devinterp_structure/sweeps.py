r"""Clusters as sets of tokens that few edges leave: PageRank from one token at a time, and a sweep over its order.

From a seed, tokens are put in the order of their personalised PageRank over their degree. The conductance of the first
:math:`s` tokens in that order dips where the walk has filled a cluster. Whether a dip means anything is judged against a
Gaussian cloud of the same mean and covariance, which has none: a set is a cluster if its conductance is below `MARGIN` of the
lowest that sweeps of the cloud reach with as many tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from devinterp_structure.graph import Graph, conductances, pagerank

#: A cluster's conductance is below this share of the lowest of as many tokens of a Gaussian cloud.
MARGIN = 0.5
#: The first dip counts that is at most this many times as high as the lowest of a sweep, or below this share of a cloud's.
_FIRST_DIP, _LOW = 2.0, 0.1
#: Seeds that are tried in the cloud.
_SEEDS_OF_CLOUD = 12


@dataclass(frozen=True)
class Sweeps:
    """How sweeps are made.

    Parameters
    ----------
    alpha, tolerance : float, optional
        As of `devinterp_structure.graph.pagerank`.
    min_size : int, default: 20
        Least number of tokens of a cluster.
    max_share : float, default: 0.99
        A cluster holds at most this share of all degrees: what holds more is the main body.
    patience : int, default: 20
        The search ends when from so many seeds in a row no cluster was found.
    """

    alpha: float = 1e-3
    tolerance: float = 1e-7
    min_size: int = 20
    max_share: float = 0.99
    patience: int = 20

    def ordered(self, graph: Graph, seed: int, free: np.ndarray) -> np.ndarray:
        """Return the tokens that are free and reached from a seed, in their order, up to the largest share."""
        scores = pagerank(graph, seed, self.alpha, self.tolerance) / np.maximum(graph.degree, 1)
        order = np.argsort(-scores, kind="stable")
        order = order[free[order] & (scores[order] > 0)]
        return np.asarray(order[np.cumsum(graph.degree[order]) <= self.max_share * graph.degree.sum()])


def lowest_of_cloud(graph: Graph, sweeps: Sweeps, rng: np.random.Generator) -> np.ndarray:
    """Return the lowest conductance of sets of each number of tokens in a cloud without clusters, ``(number,)``."""
    num_tokens = len(graph.degree)
    lowest = np.full(num_tokens, np.inf)
    free = np.ones(num_tokens, dtype=bool)
    for seed in rng.choice(num_tokens, min(_SEEDS_OF_CLOUD, num_tokens), replace=False):
        order = sweeps.ordered(graph, int(seed), free)
        lowest[: len(order)] = np.minimum(lowest[: len(order)], conductances(graph, order))
    # Where no sweep came, as low as anywhere: a set of that size has nothing to be compared with.
    return np.where(np.isfinite(lowest), lowest, lowest.min())


def clusters_by_sweeps(graph: Graph, density: np.ndarray, lowest: np.ndarray, sweeps: Sweeps) -> np.ndarray:
    """Return the cluster of each token, -1 for none.

    Parameters
    ----------
    graph : Graph
        The graph.
    density : numpy.ndarray
        How dense tokens lie around each: the next seed is the densest token that is in no cluster and near no seed yet.
    lowest : numpy.ndarray
        Of a cloud without clusters, from `lowest_of_cloud`.
    sweeps : Sweeps
        How sweeps are made.
    """
    num_tokens = len(density)
    labels = np.full(num_tokens, -1)
    untried = np.ones(num_tokens, dtype=bool)
    by_density = np.argsort(-density, kind="stable")
    count = failed = 0
    while failed < sweeps.patience and (untried & (labels < 0)).any():
        seed = int(by_density[(untried & (labels < 0))[by_density]][0])
        order = sweeps.ordered(graph, seed, labels < 0)
        untried[order[: sweeps.min_size]] = False
        untried[seed] = False
        size, conductance = first_dip(conductances(graph, order), lowest, sweeps.min_size)
        if size and conductance < MARGIN * lowest[size - 1]:
            labels[order[:size]] = count
            count, failed = count + 1, 0
        else:
            failed += 1
    return labels


def first_dip(profile: np.ndarray, lowest: np.ndarray, min_size: int) -> tuple[int, float]:
    """Return how many tokens the first low dip of a sweep holds, and its conductance; 0 and infinity if there are too few.

    Parameters
    ----------
    profile : numpy.ndarray
        Conductance of the first tokens of a sweep, for every number of them.
    lowest : numpy.ndarray
        The same of a cloud without clusters; dips are compared as shares of it.
    min_size : int
        Least number of tokens.
    """
    if len(profile) < min_size:
        return 0, np.inf
    share = profile[min_size - 1 :] / lowest[min_size - 1 : len(profile)]
    place = int(np.flatnonzero(share <= max(_FIRST_DIP * share.min(), _LOW))[0])
    while True:  # down to the bottom
        ahead = share[place : place + max(min_size, (place + min_size) // 8) + 1]
        if ahead.argmin() == 0:
            return place + min_size, float(profile[place + min_size - 1])
        place += int(ahead.argmin())
