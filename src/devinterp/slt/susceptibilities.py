"""The susceptibilities, under the import path of DevInterp 2."""

from __future__ import annotations

from devinterp.analyses.susceptibilities.analysis import compute_susceptibilities
from devinterp.slt.one_call import sample_then

__all__ = ["compute_susceptibilities", "susceptibilities"]

susceptibilities = sample_then(compute_susceptibilities, "susceptibilities")
