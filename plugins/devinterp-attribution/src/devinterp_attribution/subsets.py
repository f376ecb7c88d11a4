r"""The linear datamodelling score: do sums of scores predict losses of models that were retrained on subsets."""

from __future__ import annotations

from typing import Any

import xarray as xr

from devinterp_attribution.labelled import CANDIDATE, QUERY, SEED, SUBSET, same_length, values
from devinterp_attribution.rank_correlation import correlations


def lds(scores: Any, losses: Any, membership: Any, *, num_resamples: int = 500, seed: int = 0) -> xr.Dataset:
    r"""Compute the linear datamodelling score (LDS) [1]_ of influence scores.

    For each query the rank correlation over subsets of the training data, between the sum of the scores of a subset's samples
    and minus the loss on the query of a model retrained on that subset, its mean over seeds.

    Parameters
    ----------
    scores : array_like
        ``(query, candidate)``: larger for a training sample that lowers the query's loss more. The covariance of losses over
        the posterior (``tree.slt.bif(compute_covariance=True)``, whose sign is the plain one) is such a score.
    losses : array_like
        ``(subset, seed, query)``: in nats, of models retrained on each subset, with several seeds each.
    membership : array_like
        ``(subset, candidate)``: True, or how often a sample is in a subset.
    num_resamples : int, default: 500
        For the errors, at least 2: subsets and queries are drawn anew with replacement, together.
    seed : int, default: 0
        Of the resamples.

    Returns
    -------
    xarray.Dataset
        - ``lds``: the mean over queries, between -1 and 1, and its standard error ``lds_se``; ``lds_per_query(query)``, NaN for
          a query whose scores or losses do not vary.
        - ``ceiling``: the correlation that an exact prediction would have with these losses, which retraining noise keeps below
          1, and its error ``ceiling_se``: the root of ``reliability``, the share of the variance over subsets that is not noise
          of retraining. NaN with one seed, and where the reliability is less than twice its error, ``reliability_se``;
          ``reliability_per_query(query)``, whose estimates can be negative.

    Raises
    ------
    InvalidInputError
        If the arrays do not agree, hold a number that is not finite, or there are fewer than five subsets.

    References
    ----------
    .. [1] S. M. Park, K. Georgiev, A. Ilyas, G. Leclerc, A. Madry. TRAK: attributing model behavior at scale. arXiv:2303.14186.
    """
    table = values("scores", scores, (QUERY, CANDIDATE))
    measured = values("losses", losses, (SUBSET, SEED, QUERY))
    members = values("membership", membership, (SUBSET, CANDIDATE))
    same_length(QUERY, scores=table.shape[0], losses=measured.shape[2])
    same_length(CANDIDATE, scores=table.shape[1], membership=members.shape[1])
    same_length(SUBSET, losses=measured.shape[0], membership=members.shape[0])
    return correlations(table @ members.T, -measured, unit=SUBSET, name="lds", num_resamples=num_resamples, seed=seed)
