"""Count which pieces of an observable's losses are read."""

from __future__ import annotations

import dask.array as da
import numpy as np
import xarray as xr


class CountingReads:
    """An array that records what was read of it."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.read = values, []
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim

    def __getitem__(self, index):
        self.read.append(index)
        return self.values[index]


def counted(tree: xr.DataTree, path: str, chunks: tuple[int, ...]) -> CountingReads:
    """Make a variable of a tree lazy, with these chunks, and return what records its reads."""
    found = tree[path]
    source = CountingReads(found.to_numpy())
    lazy = da.from_array(source, chunks=chunks, asarray=False, fancy=False)
    source.read.clear()  # Dask looks at an empty piece
    tree[path] = xr.DataArray(lazy, dims=found.dims)
    return source
