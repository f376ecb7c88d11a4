"""What plugin authors test with: synthetic trees and conformance suites to subclass."""

from __future__ import annotations

from devinterp.testing.analyses import AnalysisTests
from devinterp.testing.trees import synthetic_tree

__all__ = ["AnalysisTests", "synthetic_tree"]
