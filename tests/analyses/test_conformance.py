"""The built-in analyses pass the suite that third-party authors subclass, and the suite finds what it is for."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from devinterp.analyses import arviz, llc, sensitivity, temperature
from devinterp.analyses.bif import analysis as bif
from devinterp.analyses.susceptibilities import analysis as susceptibilities
from devinterp.testing import AnalysisTests
from devinterp.types import Analysis


class TestLLC(AnalysisTests):
    analysis = llc.devinterp_analyses()[0]


class TestTokenLLC(AnalysisTests):
    analysis = llc.devinterp_analyses()[2]
    options = {"observable": "code"}  # noqa: RUF012


class TestBIF(AnalysisTests):
    analysis = bif.devinterp_analyses()[0]


class TestSequenceBIF(AnalysisTests):
    analysis = bif.devinterp_analyses()[0]
    options = {"method": "sequence", "detrend": True, "standard_errors": True}  # noqa: RUF012
    tolerance = 2e-4  # errors are differences of float32 correlations


class TestStrongestBIF(AnalysisTests):
    analysis = bif.devinterp_analyses()[0]
    options = {"top_k": 3, "queries": "code"}  # noqa: RUF012


class TestSusceptibilities(AnalysisTests):
    analysis = susceptibilities.devinterp_analyses()[0]
    options = {"sampling_task": "train"}  # noqa: RUF012


class OfVirial(AnalysisTests):
    def tree(self, **options):
        return super().tree(**{"virial": True, **options})


class TestTemperature(OfVirial):
    analysis = temperature.devinterp_analyses()[0]


class TestSensitivity(OfVirial):
    analysis = sensitivity.devinterp_analyses()[0]
    tolerance = 1e-4  # covariances of float32 losses


class TestToArviz(OfVirial):
    analysis = arviz.devinterp_analyses()[0]


def _eager(tree: xr.DataTree) -> xr.Dataset:
    """Compute too early."""
    return xr.Dataset({"mean": tree["trace/loss"].load().mean()})


def _ignoring(tree: xr.DataTree) -> xr.Dataset:
    """Skip what diverged."""
    return xr.Dataset({"mean": tree["trace/loss"].mean()})


def _changing(tree: xr.DataTree, level: float = 0.0) -> xr.Dataset:
    """Leave a trace."""
    tree.attrs["seen"] = True
    tree["trace/loss"][:] = 0
    return xr.Dataset({"mean": tree["trace/loss"].mean()})


def _chunk_dependent(tree: xr.DataTree) -> xr.Dataset:
    """Look at the chunks."""
    chunks = tree["trace/loss"].chunks
    return xr.Dataset({"count": tree["trace/loss"].mean() + (0 if chunks is None else len(chunks[2]))})


def _suite(compute, requires=("trace/loss",)):
    suite = AnalysisTests()
    suite.analysis = Analysis("wrong", compute, requires)
    return suite


@pytest.mark.parametrize(
    ("compute", "test", "message"),
    [
        (_eager, "test_computes_nothing_when_called", "a loss was read"),
        (_ignoring, "test_refuses_broken_chains", "plausible numbers"),
        (_changing, "test_leaves_the_tree_as_it_was", "not identical"),
        (_changing, "test_documents_its_parameters", "`level` is not described"),
        (_chunk_dependent, "test_chunks_change_nothing", "Not equal to tolerance"),
    ],
)
def test_the_suite_finds(compute, test, message):
    with pytest.raises(AssertionError, match=message):
        getattr(_suite(compute), test)()


def test_the_suite_finds_what_cannot_be_stored_or_is_not_there(tmp_path):
    unwritable = lambda tree: xr.Dataset({"x": ("n", np.array([object()]))})  # noqa: E731
    with pytest.raises((TypeError, ValueError), match="object"):
        _suite(unwritable).test_result_can_be_stored(tmp_path)
    with pytest.raises(AssertionError, match="trace/losses"):
        _suite(_ignoring, ("trace/losses",)).test_its_requirements_are_in_the_tree()
