r"""A response matrix as a dataset: its variables, further steps of it, and one made of estimates from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from devinterp.errors import InvalidInputError
from devinterp.schema import CHAIN, RESTRICTION, TOKEN
from devinterp_structure.column_moments import column_moments
from devinterp_structure.lazy import Array, call, in_row_blocks, is_lazy, map_matrices
from devinterp_structure.steps import STEPS, described, steps_of
from devinterp_structure.transforms import checked, row_map

#: Names of the variables of a response matrix, and of the dim of those without one chain each.
RESPONSE, LEFT_OUT, LEFT_OUT_CHAIN = "response", "response_left_out", "left_out_chain"


def transformed(matrix: xr.Dataset, steps: Sequence[str]) -> xr.Dataset:
    """Compute further steps of a response matrix, such as one that was stored as raw susceptibilities.

    Parameters
    ----------
    matrix : xarray.Dataset
        A result of `response_matrix` or `matrix_of_chains`.
    steps : sequence of str
        As in `response_matrix`.

    Returns
    -------
    xarray.Dataset
        The same with these steps made, and written down behind those that were made before.

    Raises
    ------
    InvalidInputError
        If there is no such step, or this is no response matrix.
    """
    matrix, steps = checked_matrix(matrix, needed_by="transformed"), checked(steps)
    if not steps:
        return matrix
    values = matrix[RESPONSE].transpose(TOKEN, RESTRICTION).data
    names = [str(name) for name in matrix[RESTRICTION].to_numpy()]
    mapped = call(row_map, column_moments(in_row_blocks(values)), steps, names)
    variants = with_left_out(matrix)
    rows = map_matrices(
        _through, in_row_blocks(variants), mapped, width=values.shape[1], dtype=np.float32, read_again=True
    )
    result = matrix.copy()
    result[RESPONSE] = ((TOKEN, RESTRICTION), rows[0])
    if LEFT_OUT in matrix:
        result[LEFT_OUT] = ((LEFT_OUT_CHAIN, TOKEN, RESTRICTION), _stacked(rows[1:]))
    result.attrs = {**matrix.attrs, STEPS: [*steps_of(matrix), *steps]}
    return result


def matrix_of_chains(values: xr.DataArray, *, steps: Sequence[str] = ()) -> xr.Dataset:
    """Compute a response matrix from an estimate for each chain, made elsewhere.

    Parameters
    ----------
    values : xarray.DataArray
        ``(chain, token, restriction)``: susceptibilities, or any other responses, of which the mean over chains is the
        estimate. Coordinates of tokens are kept.
    steps : sequence of str, optional
        As in `response_matrix`.

    Returns
    -------
    xarray.Dataset
        As from `response_matrix`.

    Raises
    ------
    InvalidInputError
        If the dims are others.
    """
    if set(values.dims) != {CHAIN, TOKEN, RESTRICTION}:
        raise InvalidInputError(f"`values` must have the dims chain, token and restriction; it has {values.dims}.")
    count = values.sizes[CHAIN]
    mean = values.mean(CHAIN)
    labels = values[CHAIN].to_numpy() if CHAIN in values.coords else np.arange(count)
    matrix = mean.transpose(TOKEN, RESTRICTION).astype(np.float32).to_dataset(name=RESPONSE)
    if RESTRICTION not in matrix.coords:
        matrix = matrix.assign_coords({RESTRICTION: [f"restriction {i}" for i in range(matrix.sizes[RESTRICTION])]})
    if count > 1:
        left_out = (count * mean - values) / (count - 1)
        left_out = left_out.transpose(CHAIN, TOKEN, RESTRICTION).astype(np.float32)
        matrix[LEFT_OUT] = ((LEFT_OUT_CHAIN, TOKEN, RESTRICTION), left_out.data)
        matrix = matrix.assign_coords({LEFT_OUT_CHAIN: labels})
    matrix.attrs = {STEPS: [described("given", {"chains": count})]}
    return transformed(matrix, steps)


def checked_matrix(matrix: Any, *, needed_by: str) -> xr.Dataset:
    """Return a response matrix, or say what else this is."""
    if (
        not isinstance(matrix, xr.Dataset)
        or RESPONSE not in matrix
        or {TOKEN, RESTRICTION} - set(matrix[RESPONSE].dims)
    ):
        got = f"a Dataset with {list(matrix.data_vars)}" if isinstance(matrix, xr.Dataset) else type(matrix).__name__
        raise InvalidInputError(
            f"`{needed_by}` takes a run, or a response matrix with `response(token, restriction)`; got {got}: pass the result "
            "of `tree.slt.response_matrix()`."
        )
    extra = set(matrix[RESPONSE].dims) - {TOKEN, RESTRICTION}
    if extra:
        raise InvalidInputError(
            f"`{needed_by}` takes the response matrix of one run; this one has {', '.join(map(repr, map(str, extra)))} too: "
            f"choose with `.isel({next(iter(extra))}=...)`."
        )
    return matrix


def with_left_out(matrix: xr.Dataset) -> Array:
    """Return a response matrix and those without one chain each, ``(variant, token, restriction)``."""
    parts = [matrix[RESPONSE].transpose(TOKEN, RESTRICTION).data[None]]
    if LEFT_OUT in matrix:
        parts.append(matrix[LEFT_OUT].transpose(LEFT_OUT_CHAIN, TOKEN, RESTRICTION).data)
    lazy = any(is_lazy(each) for each in parts)
    return da.concatenate(parts, axis=0) if lazy else np.concatenate(parts, axis=0)


def _stacked(parts: list[Array]) -> Array:
    return da.stack(parts) if is_lazy(parts[0]) else np.stack(parts)


def _through(rows: np.ndarray, mapped: Any) -> np.ndarray:
    return np.asarray(mapped(rows))
