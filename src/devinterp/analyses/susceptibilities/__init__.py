"""Susceptibilities: how the loss of a component responds to a change of the data."""

from devinterp.analyses.susceptibilities.analysis import compute_susceptibilities, devinterp_analyses

__all__ = ["compute_susceptibilities", "devinterp_analyses"]
