r"""How much of the variance along a component is the same in different chains, and the error of that.

Each chain has an estimate :math:`X_c` of its own of the response matrix. Noise of one chain is independent of that of another,
so the covariance between :math:`X_c` and :math:`X_{c'}` holds the responses alone, without the noise that the variance of their
mean contains. The directions :math:`v` come from the chains that are not judged with them, which keeps the estimate unbiased
where there is nothing to find:

.. math:: s_j = \frac{1}{C} \sum_c v_j^{(-c)\top} \, \mathrm{cov}(\bar X_{-c}, X_c) \, v_j^{(-c)}

the cross-validated PCA of [1]_ with chains as repeats. Its error is a jackknife over chains.

References
----------
.. [1] C. Stringer, M. Pachitariu, N. Steinmetz, M. Carandini, K. D. Harris. High-dimensional geometry of population responses
   in visual cortex. Nature 571 (2019), doi:10.1038/s41586-019-1346-5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import linalg

from devinterp.analyses.common.uncertainty import jackknife_error
from devinterp_structure.column_moments import ColumnMoments


@dataclass(frozen=True)
class SignalVariance:
    """Variance that chains share, along components and in all, with standard errors (NaN for fewer than three chains)."""

    components: np.ndarray
    components_se: np.ndarray
    total: np.ndarray
    total_se: np.ndarray


def signal_variance(
    left_out: ColumnMoments, num_chains: int, num_components: int, fixed: np.ndarray | None = None
) -> SignalVariance:
    """Return the variance that chains share.

    Parameters
    ----------
    left_out : ColumnMoments
        Of the matrices that leave out one chain each, side by side: columns ``(chain, restriction)``.
    num_chains : int
        Number of chains, at least 2.
    num_components : int
        Number of components.
    fixed : numpy.ndarray, optional
        Directions ``(restriction, component)`` that do not come from these data; default: the principal ones of the chains that
        are not judged.
    """
    covariance = _of_chains(left_out, num_chains)
    everyone = list(range(num_chains))
    components = _along(covariance, everyone, num_components, fixed)
    total = np.asarray(_total(covariance, everyone))
    if num_chains < 3:
        return SignalVariance(components, np.full_like(components, np.nan), total, np.asarray(np.nan))
    others = [[c for c in everyone if c != out] for out in everyone]
    return SignalVariance(
        components,
        np.asarray(jackknife_error([_along(covariance, some, num_components, fixed) for some in others])),
        total,
        np.asarray(jackknife_error([_total(covariance, some) for some in others])),
    )


def _of_chains(left_out: ColumnMoments, num_chains: int) -> np.ndarray:
    r"""Return the covariances of single chains' estimates with each other, ``(chain, restriction, chain, restriction)``.

    The estimate of a chain is :math:`\sum_{c'} X_{-c'} - (C - 1) X_{-c}`.
    """
    width = len(left_out.mean) // num_chains
    pairs = left_out.covariance.reshape(num_chains, width, num_chains, width)
    to_chains = np.ones((num_chains, num_chains)) - (num_chains - 1) * np.eye(num_chains)
    once = np.tensordot(to_chains, pairs, axes=(1, 0))
    return np.moveaxis(np.tensordot(to_chains, once, axes=(1, 2)), 0, 2)


def _along(covariance: np.ndarray, chains: list[int], num_components: int, fixed: np.ndarray | None) -> np.ndarray:
    """Return the shared variance along components, from some of the chains."""
    values = []
    for chain in chains:
        others = [c for c in chains if c != chain]
        if fixed is None:
            within = covariance[np.ix_(others, range(covariance.shape[1]), others)].mean(axis=(0, 2))
            directions = principal_directions(within, num_components)[1]
        else:
            directions = fixed
        between = covariance[others, :, chain].mean(axis=0)
        values.append(np.einsum("ik,ij,jk->k", directions, between, directions))
    return np.asarray(np.mean(values, axis=0))


def _total(covariance: np.ndarray, chains: list[int]) -> float:
    pairs = [np.trace(covariance[a, :, b]) for a in chains for b in chains if a != b]
    return float(np.mean(pairs))


def principal_directions(covariance: np.ndarray, num_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest eigenvalues ``(component,)`` of a covariance and their eigenvectors ``(column, component)``."""
    width = len(covariance)
    values, vectors = linalg.eigh((covariance + covariance.T) / 2, subset_by_index=(width - num_components, width - 1))
    return values[::-1], vectors[:, ::-1]
