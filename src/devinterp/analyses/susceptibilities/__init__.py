"""Susceptibilities: how the loss of a component responds to a change of the data.

A call passes the modules in this order: `analysis` (arguments), `prepared` (the run, checked), `task` (the sampling task's
loss at each draw), `moments` (means over draws of losses and products), `estimates` and `effective_samples`
(susceptibilities and errors), `tables` (the result).
"""

from devinterp.analyses.susceptibilities.analysis import compute_susceptibilities, devinterp_analyses

__all__ = ["compute_susceptibilities", "devinterp_analyses"]
