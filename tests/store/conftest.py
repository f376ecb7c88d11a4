"""Switches the run-time type checker off for a test."""

from __future__ import annotations

from sampling.conftest import unchecked  # noqa: F401  # a fixture
