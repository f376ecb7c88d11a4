"""The Bayesian influence function, under the import path of DevInterp 2."""

from __future__ import annotations

from devinterp.analyses.bif import compute_bif
from devinterp.slt._one_call import sample_then

__all__ = ["bif", "compute_bif"]

bif = sample_then(compute_bif, "bif")
