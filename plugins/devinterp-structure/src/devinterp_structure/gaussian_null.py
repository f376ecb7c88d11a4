"""A Gaussian cloud with the mean and covariance of a response matrix: what it has is no structure beyond that."""

from __future__ import annotations

import dask.array as da
import numpy as np
import xarray as xr
from dask.delayed import delayed

from devinterp import arguments
from devinterp.schema import RESTRICTION, TOKEN
from devinterp_structure.column_moments import ColumnMoments, column_moments
from devinterp_structure.lazy import in_row_blocks, is_lazy
from devinterp_structure.matrix import LEFT_OUT, LEFT_OUT_CHAIN, RESPONSE, checked_matrix
from devinterp_structure.steps import after

#: Rows that are drawn at a time, whatever the chunks of the matrix are.
_ROWS = 65536


def gaussian_null(matrix: xr.Dataset, *, seed: int = 0) -> xr.Dataset:
    """Draw a response matrix of Gaussian rows with the mean and the covariance of another [1]_.

    Its principal components explain as much as those of the other; clusters, and patterns along components, it has none.

    Parameters
    ----------
    matrix : xarray.Dataset
        A result of ``tree.slt.response_matrix()``.
    seed : int, default: 0
        Of the rows.

    Returns
    -------
    xarray.Dataset
        As the matrix, with other ``response``, and without the matrices that leave out chains. Lazy for a lazy matrix.

    Raises
    ------
    InvalidInputError
        If this is no response matrix.

    References
    ----------
    .. [1] A. Gordon, G. Baker, G. Wang, W. Snell, S. van Wingerden, D. Murfet. Towards spectroscopy: susceptibility clusters in
       language models. arXiv:2601.12703.
    """
    matrix = checked_matrix(matrix, needed_by="gaussian_null")
    seed = arguments.count("seed", seed, least=0)
    rows = in_row_blocks(matrix[RESPONSE].transpose(TOKEN, RESTRICTION).data)
    moments, (num_tokens, width) = column_moments(rows), rows.shape
    counts = [min(_ROWS, num_tokens - start) for start in range(0, num_tokens, _ROWS)]
    if is_lazy(rows):
        drawn = [delayed(_drawn, pure=False)(moments, count, seed, i) for i, count in enumerate(counts)]
        blocks = [da.from_delayed(d, (count, width), dtype=np.float32) for d, count in zip(drawn, counts, strict=True)]
        values = da.concatenate(blocks)
    else:
        values = np.concatenate([_drawn(moments, count, seed, i) for i, count in enumerate(counts)])
    result = matrix.drop_vars([name for name in (LEFT_OUT, LEFT_OUT_CHAIN) if name in matrix.variables])
    result[RESPONSE] = ((TOKEN, RESTRICTION), values)
    result.attrs = after(matrix, "gaussian_null", {"seed": seed})
    return result


def gaussian_rows(moments: ColumnMoments, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return Gaussian rows ``(count, column)`` with a mean and covariance, which may be singular."""
    variance, directions = np.linalg.eigh(moments.covariance)
    root = directions * np.sqrt(np.maximum(variance, 0))
    return np.asarray(moments.mean + rng.normal(size=(count, len(variance))) @ root.T)


def _drawn(moments: ColumnMoments, count: int, seed: int, number: int) -> np.ndarray:
    return gaussian_rows(moments, count, np.random.default_rng([seed, number])).astype(np.float32)
