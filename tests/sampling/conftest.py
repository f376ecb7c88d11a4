"""Switches the run-time type checker off for a test."""

from __future__ import annotations

import jaxtyping
import pytest


@pytest.fixture
def unchecked():
    """Leave arguments of wrong types to the package's own checks; the run-time type checker also draws random numbers."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
