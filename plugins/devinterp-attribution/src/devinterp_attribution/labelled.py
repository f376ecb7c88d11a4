"""Arguments as arrays with named dims."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from devinterp.errors import InvalidInputError

QUERY, CANDIDATE, SUBSET, SEED = "query", "candidate", "subset", "seed"


def values(name: str, given: Any, dims: tuple[str, ...]) -> np.ndarray:
    """Return the numbers of an argument, as float64, with its dims in this order; a plain array has them in this order already.

    Raises
    ------
    InvalidInputError
        If the dims are others, or a number is not finite.
    """
    if isinstance(given, xr.DataArray):
        if set(given.dims) != set(dims):
            raise InvalidInputError(f"`{name}` must have the dims {dims}; it has {given.dims}.")
        given = given.transpose(*dims)
    array = np.asarray(given).astype(float)
    if array.ndim != len(dims):
        raise InvalidInputError(f"`{name}` must have {len(dims)} dims, {dims}; its shape is {array.shape}.")
    if 0 in array.shape:
        raise InvalidInputError(f"`{name}` must not be empty; its shape is {array.shape}.")
    bad = ~np.isfinite(array)
    if bad.any():
        raise InvalidInputError(f"`{name}` must be finite; {int(bad.sum())} of its {bad.size} numbers are not.")
    return array


def same_length(dim: str, **sizes: int) -> None:
    """Refuse arguments that do not agree in the length of a dim."""
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"`{name}` has {size}" for name, size in sizes.items())
        raise InvalidInputError(f"The dim {dim!r} must have one length: {listed}.")
