"""What plugin authors test with: synthetic trees and conformance suites to subclass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devinterp.testing.analyses import AnalysisTests
from devinterp.testing.trees import synthetic_tree

if TYPE_CHECKING:
    from devinterp.testing.kernels import KernelTests

__all__ = ["AnalysisTests", "KernelTests", "synthetic_tree"]


def __getattr__(name: str) -> object:
    if name == "KernelTests":  # needs torch, which authors of analyses do not
        from devinterp.testing.kernels import KernelTests

        return KernelTests
    raise AttributeError(f"module 'devinterp.testing' has no attribute {name!r}")
