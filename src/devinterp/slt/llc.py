"""The local learning coefficient, under the import path of DevInterp 2."""

from __future__ import annotations

from devinterp.analyses.llc import compute_llc, token_llc
from devinterp.slt.one_call import sample_then

__all__ = ["compute_llc", "llc", "token_llc"]

llc = sample_then(compute_llc, "llc")
