"""Tests for plugin authors: conformance suites to subclass, and synthetic trees to run them on.

`AnalysisTests`, `KernelTests`, `ModelAdapterTests` and `RecorderTests` each hold what every object of that kind must do, the
built-in ones included; `synthetic_tree` makes a run's tree from random losses, without a model and without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from devinterp.testing.analyses import AnalysisTests
from devinterp.testing.trees import synthetic_tree

if TYPE_CHECKING:
    from devinterp.testing.kernels import KernelTests
    from devinterp.testing.model_adapters import ModelAdapterTests
    from devinterp.testing.recorders import RecorderTests

__all__ = ["AnalysisTests", "KernelTests", "ModelAdapterTests", "RecorderTests", "synthetic_tree"]


def __getattr__(name: str) -> object:
    if name == "KernelTests":  # needs torch, which authors of analyses do not
        from devinterp.testing.kernels import KernelTests

        return KernelTests
    if name == "ModelAdapterTests":
        from devinterp.testing.model_adapters import ModelAdapterTests

        return ModelAdapterTests
    if name == "RecorderTests":
        from devinterp.testing.recorders import RecorderTests

        return RecorderTests
    raise AttributeError(f"module 'devinterp.testing' has no attribute {name!r}")
