r"""Principal components of a response matrix, with the share of their variance that chains agree on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from devinterp import arguments
from devinterp.errors import InvalidInputError
from devinterp.schema import RESTRICTION, TOKEN
from devinterp_structure.column_moments import column_moments
from devinterp_structure.components import Method, components_of, directions_by, with_signs
from devinterp_structure.lazy import Array, call, in_row_blocks, map_rows, part, side_by_side
from devinterp_structure.matrix import LEFT_OUT, LEFT_OUT_CHAIN, RESPONSE
from devinterp_structure.response import DEFAULT_STEPS, matrix_of
from devinterp_structure.signal_variance import SignalVariance, signal_variance
from devinterp_structure.steps import after, steps_of, texts_last

COMPONENT, LOADING, SCORE = "component", "loading", "score"
#: Most columns of matrices without one chain each, side by side, of which covariances are kept.
_MOST_COLUMNS = 8192
_DEFAULT_COMPONENTS = 10


def pca(
    tree: xr.DataTree | xr.Dataset,
    *,
    num_components: int | None = None,
    method: Method = "covariance",
    basis: xr.Dataset | None = None,
    standard_errors: Literal["jackknife", "none"] = "jackknife",
    seed: int = 0,
    sampling_task: str | None = None,
    steps: Sequence[str] = DEFAULT_STEPS,
) -> xr.Dataset:
    r"""Compute the principal components of a response matrix.

    With :math:`X` the response matrix of :math:`N` tokens, columns centred, the loadings :math:`v_j` are the eigenvectors of
    :math:`X^T X / N`, the scores :math:`X v_j`. The explained variance contains the noise of sampling; the *signal variance*
    is the part that chains share, unbiased by noise: where there is no structure it is zero within its error, whatever the
    explained variance is (`devinterp_structure.signal_variance`). Lazy for a lazy tree, and out of core.

    Parameters
    ----------
    tree : xarray.DataTree or xarray.Dataset
        A sampling run, or the result of ``tree.slt.response_matrix()``.
    num_components : int, optional
        How many, at most the number of restrictions; default: 10, or all there are.
    method : {"covariance", "randomised", "incremental"}, default: "covariance"
        ``"covariance"`` diagonalises the covariance of the columns, accumulated in one pass: exact, for up to thousands of
        restrictions and any number of tokens. ``"randomised"`` is scikit-learn's randomised solver, which holds the whole
        matrix in memory; ``"incremental"`` its IncrementalPCA over blocks of tokens.
    basis : xarray.Dataset, optional
        A result of `pca`, for example of the last checkpoint, whose loadings and column means are used instead of new ones, so
        that scores of several runs are coordinates in one space.
    standard_errors : {"jackknife", "none"}, default: "jackknife"
        Whether to compute the signal variance and errors by leaving out chains; NaN where the matrix does not have them.
    seed : int, default: 0
        Of the randomised method.
    sampling_task : str, optional
        For a run: the observable made of the data that it was sampled on. For other options compute the matrix first.
    steps : sequence of str, default: ("z_score", "centre_rows")
        For a run: as in ``tree.slt.response_matrix()``.

    Returns
    -------
    xarray.Dataset
        - ``score(token, component)`` and ``loading(component, restriction)``; of each component the loading of largest size is
          positive. ``column_mean(restriction)`` is subtracted before projecting.
        - ``explained_variance(component)`` and, as a share of the sum over restrictions, ``explained_variance_ratio``.
        - ``signal_variance(component)`` and ``signal_variance_se``: the variance that chains share and its jackknife error
          over chains, with one degree of freedom less than there are chains; NaN for a single chain, the error also for two.
          ``total_variance``, ``total_signal_variance`` and its ``_se`` are the sums over all restrictions.

        The attribute ``steps`` goes on from that of the matrix.

    Raises
    ------
    InvalidInputError
        If there are fewer restrictions than components, or a basis of other restrictions.

    References
    ----------
    .. [1] G. Baker, G. Wang, J. Hoogland, D. Murfet. Studying small language models with susceptibilities. arXiv:2504.18274.
    """
    arguments.word("standard_errors", standard_errors, ("jackknife", "none"))
    arguments.word("method", method, get_args(Method))
    matrix = matrix_of(tree, sampling_task, steps, needed_by="pca")
    names = [str(name) for name in matrix[RESTRICTION].to_numpy()]
    count = _number(num_components, names, basis)
    rows = in_row_blocks(matrix[RESPONSE].transpose(TOKEN, RESTRICTION).data)
    moments = column_moments(rows)
    fixed = None if basis is None else _basis(basis, names)
    if fixed is not None:
        directions, mean = fixed
        solved = call(components_of, moments, directions, mean)
    elif method == "covariance":
        solved = call(components_of, moments, None, None, count)
    else:
        directions = call(with_signs, directions_by(method, rows, count, arguments.count("seed", seed, least=0)))
        solved = call(components_of, moments, directions, None)
    signal = _signal(matrix, standard_errors, count, None if fixed is None else fixed[0])
    parameters: dict[str, Any] = {"num_components": count, "method": method if basis is None else "given basis"}
    if method == "randomised":
        parameters["seed"] = seed
    return _result(matrix, rows, solved, signal, parameters, standard_errors, basis)


def _number(num_components: int | None, names: Sequence[str], basis: xr.Dataset | None) -> int:
    if basis is not None:
        return int(_checked_basis(basis).sizes[COMPONENT])
    if num_components is None:
        return min(_DEFAULT_COMPONENTS, len(names))
    count = arguments.count("num_components", num_components, least=1)
    if count > len(names):
        raise InvalidInputError(
            f"`num_components` (={count}) must be at most the number of restrictions, {len(names)}."
        )
    return count


def _checked_basis(basis: Any) -> xr.Dataset:
    if not isinstance(basis, xr.Dataset) or not {LOADING, "column_mean"} <= set(basis.data_vars):
        raise InvalidInputError("`basis` must be a result of `pca`, with `loading` and `column_mean`.")
    return basis


def _basis(basis: xr.Dataset, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the directions ``(restriction, component)`` and the mean of a basis, in the order of the matrix's columns."""
    known = [str(name) for name in basis[RESTRICTION].to_numpy()]
    if set(known) != set(names):
        differing = sorted(set(known) ^ set(names))
        raise InvalidInputError(
            f"`basis` is of other restrictions than the matrix; they differ in {', '.join(map(repr, differing[:8]))}: choose "
            "the same with `restrictions=` for both."
        )
    ordered = basis.isel({RESTRICTION: [known.index(name) for name in names]})
    return (
        ordered[LOADING].transpose(RESTRICTION, COMPONENT).to_numpy(),
        ordered["column_mean"].to_numpy(),
    )


def _signal(matrix: xr.Dataset, standard_errors: str, count: int, fixed: np.ndarray | None) -> Any:
    """Return a `SignalVariance`, delayed for a lazy matrix; None where there is none."""
    if standard_errors == "none" or LEFT_OUT not in matrix:
        return None
    parts = matrix[LEFT_OUT].transpose(TOKEN, LEFT_OUT_CHAIN, RESTRICTION)
    num_chains, width = parts.sizes[LEFT_OUT_CHAIN], parts.sizes[RESTRICTION]
    if num_chains * width > _MOST_COLUMNS:
        raise InvalidInputError(
            f"errors of {num_chains} chains × {width} restrictions need a covariance of {num_chains * width} columns, more "
            f"than {_MOST_COLUMNS}: pass standard_errors='none', or choose chains with `.isel(left_out_chain=...)`."
        )
    return call(signal_variance, column_moments(side_by_side(parts.data)), num_chains, count, fixed)


def _result(
    matrix: xr.Dataset,
    rows: Array,
    solved: Any,
    signal: Any,
    parameters: dict[str, Any],
    standard_errors: str,
    basis: xr.Dataset | None,
) -> xr.Dataset:
    count, width = parameters["num_components"], rows.shape[1]
    result = matrix.drop_vars([name for name in (RESPONSE, LEFT_OUT, LEFT_OUT_CHAIN) if name in matrix.variables])
    result = result.assign_coords({COMPONENT: np.arange(1, count + 1)})
    result[SCORE] = (
        (TOKEN, COMPONENT),
        map_rows(_scores, rows, solved, width=count, dtype=np.float32, read_again=True),
    )
    result[LOADING] = ((RESTRICTION, COMPONENT), part(solved, "directions", (width, count)))
    result[LOADING] = result[LOADING].transpose(COMPONENT, RESTRICTION)
    result["column_mean"] = (RESTRICTION, part(solved, "mean", (width,)))
    for name in ("explained_variance", "explained_variance_ratio"):
        result[name] = (COMPONENT, part(solved, name, (count,)))
    result["total_variance"] = ((), part(solved, "total_variance", ()))
    result.attrs = after(matrix, "pca", parameters)
    if basis is not None:
        result.attrs["basis_steps"] = steps_of(basis)
    if standard_errors == "jackknife":
        _add_signal(result, matrix, signal, count)
    return texts_last(result)


def _add_signal(result: xr.Dataset, matrix: xr.Dataset, signal: Any, count: int) -> None:
    values = call(_as_dict, signal) if signal is not None else _as_dict(None, count)
    for name in ("signal_variance", "signal_variance_se"):
        result[name] = (COMPONENT, part(values, name, (count,)))
    for name in ("total_signal_variance", "total_signal_variance_se"):
        result[name] = ((), part(values, name, ()))
    num_chains = matrix.sizes.get(LEFT_OUT_CHAIN, 1)
    for name in ("signal_variance_se", "total_signal_variance_se"):
        result[name].attrs["degrees_of_freedom"] = num_chains - 1
        if num_chains < 3:
            result[name].attrs["reason"] = "a jackknife of what two chains share needs at least three"


def _as_dict(signal: SignalVariance | None, count: int = 0) -> dict[str, np.ndarray]:
    missing = np.full(count, np.nan)
    if signal is None:
        signal = SignalVariance(missing, missing, np.asarray(np.nan), np.asarray(np.nan))
    return {
        "signal_variance": signal.components,
        "signal_variance_se": signal.components_se,
        "total_signal_variance": signal.total,
        "total_signal_variance_se": signal.total_se,
    }


def _scores(rows: np.ndarray, solved: dict[str, np.ndarray]) -> np.ndarray:
    return np.asarray((rows - solved["mean"]) @ solved["directions"])
