"""Plugins that are installed for one test."""

from __future__ import annotations

import pytest

from support.installed import clean_plugins, installer

install = pytest.fixture(installer)
_clean_plugins = pytest.fixture(autouse=True)(clean_plugins)
