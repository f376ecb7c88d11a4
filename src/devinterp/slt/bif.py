"""The Bayesian influence function, under the import path of DevInterp 2."""

from __future__ import annotations

from devinterp.analyses.bif import compute_bif

__all__ = ["compute_bif"]
