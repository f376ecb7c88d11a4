"""Count which pieces of an observable's losses an analysis reads."""

from __future__ import annotations

import dask.array as da
import numpy as np
import xarray as xr


class CountingReads:
    """An array for Dask that keeps the indices at which it was read, in `read`."""

    def __init__(self, values: np.ndarray) -> None:
        self.values, self.read = values, []
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim

    def __getitem__(self, index):
        self.read.append(index)
        return self.values[index]


def counted(tree: xr.DataTree, path: str, chunks: tuple[int, ...]) -> CountingReads:
    """Make a variable of a tree lazy, with these chunks, and return what records its reads."""
    array = tree[path]
    source = CountingReads(array.to_numpy())
    lazy = da.from_array(source, chunks=chunks, asarray=False, fancy=False)
    source.read.clear()  # Dask looks at an empty piece
    tree[path] = xr.DataArray(lazy, dims=array.dims)
    return source
