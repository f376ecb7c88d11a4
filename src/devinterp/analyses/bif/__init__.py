"""Bayesian influence functions: how the losses of tokens or sequences vary together, for all pairs or the strongest.

A call passes the modules in this order: `analysis` (arguments and result), `selection` and `sides` (which tokens), `plan`
(which rows), `traces` and `averaged` (losses to rows), then `pairs`, or `top_k` and `ranking` (rows to influences).
"""

from devinterp.analyses.bif.analysis import compute_bif, devinterp_analyses

__all__ = ["compute_bif", "devinterp_analyses"]
