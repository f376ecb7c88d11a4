"""Trees written as stores, without the warnings that concern nobody here."""

from __future__ import annotations

import warnings
from pathlib import Path

import xarray as xr


def write(tree: xr.DataTree, path: Path) -> Path:
    """Write a tree as xarray does; return where."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata|.*does not have a Zarr V3 specification")
        tree.to_zarr(path)
    return path
