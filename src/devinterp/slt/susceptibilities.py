"""The susceptibilities, under the import path of DevInterp 2."""

from __future__ import annotations

from devinterp.analyses.susceptibilities import compute_susceptibilities
from devinterp.slt._one_call import sample_then

__all__ = ["compute_susceptibilities", "susceptibilities"]

susceptibilities = sample_then(compute_susceptibilities, "susceptibilities")
