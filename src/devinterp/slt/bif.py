"""The Bayesian influence function, under the import path of DevInterp 2."""

from __future__ import annotations

from devinterp.analyses.bif.analysis import compute_bif
from devinterp.slt.one_call import sample_then

__all__ = ["bif", "compute_bif"]

bif = sample_then(compute_bif, "bif")
