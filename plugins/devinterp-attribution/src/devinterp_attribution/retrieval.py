"""Scores against known answers: which candidates are relevant to a query, which samples carry a wrong label."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr

from devinterp import arguments
from devinterp.errors import InvalidInputError
from devinterp_attribution.labelled import CANDIDATE, QUERY, same_length, values


def recall_at_k(scores: Any, relevant: Any, *, k: int) -> xr.Dataset:
    """Compute which share of each query's relevant candidates is among its `k` with the largest scores.

    Parameters
    ----------
    scores : array_like
        ``(query, candidate)``. Of equal scores, those of candidates that are not relevant count as larger, so that a constant
        score finds nothing.
    relevant : array_like of bool
        ``(query, candidate)``.
    k : int
        How many candidates are looked at, at least 1.

    Returns
    -------
    xarray.Dataset
        ``recall``, the mean over the queries with relevant candidates, between 0 and 1; ``recall_se``, its standard error over
        queries, NaN for one; ``recall_per_query(query)``, NaN without relevant candidates.

    Raises
    ------
    InvalidInputError
        If the arrays do not agree or no query has a relevant candidate.
    """
    k = arguments.count("k", k, least=1)
    ranks, answers = _ranks(scores, relevant)
    num_relevant = answers.sum(1)
    each = np.where(num_relevant > 0, ((ranks <= k) & answers).sum(1) / np.maximum(num_relevant, 1), np.nan)
    return _over_queries("recall", each)


def mean_reciprocal_rank(scores: Any, relevant: Any) -> xr.Dataset:
    """Compute the mean over queries of one over the rank of the first relevant candidate.

    Parameters
    ----------
    scores, relevant : array_like
        As of `recall_at_k`.

    Returns
    -------
    xarray.Dataset
        ``mean_reciprocal_rank``, ``mean_reciprocal_rank_se`` and ``mean_reciprocal_rank_per_query(query)`` as of `recall_at_k`.

    Raises
    ------
    InvalidInputError
        If the arrays do not agree or no query has a relevant candidate.
    """
    ranks, answers = _ranks(scores, relevant)
    first = np.where(answers, ranks, np.inf).min(1)
    return _over_queries("mean_reciprocal_rank", np.where(np.isfinite(first), 1 / first, np.nan))


def mislabel_auc(scores: Any, mislabelled: Any) -> xr.Dataset:
    r"""Compute the probability that a mislabelled sample has a larger score than a sample with the right label.

    It is the area under the ROC curve; its error is DeLong's, from how much the comparisons of single samples vary [1]_.

    Parameters
    ----------
    scores : array_like
        ``(candidate,)``: larger where a label is more likely to be wrong, such as minus a sample's influence on its own class,
        or its influence on itself. Equal scores count as half.
    mislabelled : array_like of bool
        ``(candidate,)``.

    Returns
    -------
    xarray.Dataset
        ``auc``, between 0 and 1, 0.5 for scores that say nothing, and its standard error ``auc_se``, NaN where there are fewer
        than two samples of a kind.

    Raises
    ------
    InvalidInputError
        If the arrays do not agree, or all samples are of one kind.

    References
    ----------
    .. [1] E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson. Comparing the areas under two or more correlated receiver operating
       characteristic curves: a nonparametric approach. Biometrics 44 (1988).
    """
    from scipy.stats import rankdata

    table = values("scores", scores, (CANDIDATE,))
    wrong = values("mislabelled", mislabelled, (CANDIDATE,)).astype(bool)
    same_length(CANDIDATE, scores=len(table), mislabelled=len(wrong))
    num_wrong, num_right = int(wrong.sum()), int((~wrong).sum())
    if not num_wrong or not num_right:
        raise InvalidInputError(f"`mislabelled` must hold both kinds; {num_wrong} of {len(wrong)} are True.")
    ranks = rankdata(table)
    # The share of samples of the other kind that each sample is on the right side of.
    above = (ranks[wrong] - rankdata(table[wrong])) / num_right
    below = 1 - (ranks[~wrong] - rankdata(table[~wrong])) / num_wrong
    few = min(num_wrong, num_right) < 2
    error = math.nan if few else math.sqrt(above.var(ddof=1) / num_wrong + below.var(ddof=1) / num_right)
    return xr.Dataset({"auc": ((), float(above.mean())), "auc_se": ((), error)})


def _ranks(scores: Any, relevant: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the rank of each candidate for each query, 1 the first, and which are relevant."""
    table = values("scores", scores, (QUERY, CANDIDATE))
    answers = values("relevant", relevant, (QUERY, CANDIDATE)).astype(bool)
    same_length(QUERY, scores=len(table), relevant=len(answers))
    same_length(CANDIDATE, scores=table.shape[1], relevant=answers.shape[1])
    if not answers.any():
        raise InvalidInputError("`relevant` must be True somewhere: no query has a relevant candidate.")
    order = np.lexsort((answers, -table), axis=1)
    ranks = np.empty(table.shape, dtype=int)
    np.put_along_axis(ranks, order, np.arange(1, table.shape[1] + 1)[None], axis=1)
    return ranks, answers


def _over_queries(name: str, each: np.ndarray) -> xr.Dataset:
    known = each[np.isfinite(each)]
    error = known.std(ddof=1) / math.sqrt(len(known)) if len(known) > 1 else math.nan
    return xr.Dataset(
        {name: ((), float(known.mean())), f"{name}_se": ((), float(error)), f"{name}_per_query": (QUERY, each)}
    )
