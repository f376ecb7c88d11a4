"""Influence scores put to the test: what scores of training samples say of models that were retrained, and of known answers.

`subsets` (linear datamodelling score) and `leave_one_out` compare scores with losses after retraining, by `rank_correlation`;
`retrieval` compares them with answers that are known. Arguments become arrays with known dims in `labelled`.
"""

from devinterp_attribution.leave_one_out import leave_one_out_correlation
from devinterp_attribution.retrieval import mean_reciprocal_rank, mislabel_auc, recall_at_k
from devinterp_attribution.subsets import lds

__all__ = ["lds", "leave_one_out_correlation", "mean_reciprocal_rank", "mislabel_auc", "recall_at_k"]
