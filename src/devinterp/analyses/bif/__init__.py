"""Bayesian influence functions: between which losses, all pairs or the strongest, per token, sequence or averaged."""

from devinterp.analyses.bif.analysis import compute_bif, devinterp_analyses

__all__ = ["compute_bif", "devinterp_analyses"]
