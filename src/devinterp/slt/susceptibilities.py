"""Susceptibilities, under the import path of DevInterp 2."""

from __future__ import annotations

from devinterp.analyses.susceptibilities import compute_susceptibilities

__all__ = ["compute_susceptibilities"]
