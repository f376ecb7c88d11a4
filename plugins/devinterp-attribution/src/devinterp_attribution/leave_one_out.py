"""Scores against models that were retrained without one sample each."""

from __future__ import annotations

from typing import Any

import xarray as xr

from devinterp_attribution.labelled import CANDIDATE, QUERY, SEED, same_length, values
from devinterp_attribution.rank_correlation import correlations


def leave_one_out_correlation(scores: Any, losses: Any, *, num_resamples: int = 500, seed: int = 0) -> xr.Dataset:
    """Compute the rank correlation of influence scores with losses of models retrained without one sample each [1]_.

    Parameters
    ----------
    scores : array_like
        ``(query, candidate)``: larger for a training sample that lowers the query's loss more.
    losses : array_like
        ``(candidate, seed, query)``: in nats, of models retrained without each candidate, with several seeds each. A useful
        sample is one without which the loss is larger.
    num_resamples : int, default: 500
        For the errors, at least 2: candidates and queries are drawn anew with replacement, together.
    seed : int, default: 0
        Of the resamples.

    Returns
    -------
    xarray.Dataset
        ``correlation``, the mean over queries, with ``correlation_se`` and ``correlation_per_query(query)``; ``ceiling``,
        ``reliability``, their errors and ``reliability_per_query(query)`` as of `lds`.

    Raises
    ------
    InvalidInputError
        If the arrays do not agree, hold a number that is not finite, or there are fewer than five candidates.

    References
    ----------
    .. [1] P. W. Koh, P. Liang. Understanding black-box predictions via influence functions. arXiv:1703.04730.
    """
    table = values("scores", scores, (QUERY, CANDIDATE))
    measured = values("losses", losses, (CANDIDATE, SEED, QUERY))
    same_length(QUERY, scores=table.shape[0], losses=measured.shape[2])
    same_length(CANDIDATE, scores=table.shape[1], losses=measured.shape[0])
    return correlations(table, measured, unit=CANDIDATE, name="correlation", num_resamples=num_resamples, seed=seed)
