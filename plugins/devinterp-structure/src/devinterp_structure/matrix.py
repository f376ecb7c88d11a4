r"""The response matrix: what every token of the data does to every component of a model, as rows of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from devinterp import arguments
from devinterp.analyses.common.run_data import Chains, restriction_names
from devinterp.analyses.susceptibilities.prepared import Estimator, PreparedRun
from devinterp.analyses.susceptibilities.task import InitialLoss
from devinterp.errors import InvalidInputError, MissingDataError
from devinterp.runs import only
from devinterp.schema import CHAIN, NULL, RESTRICTION, TOKEN
from devinterp_structure import estimates
from devinterp_structure.column_moments import column_moments
from devinterp_structure.lazy import Array, call, in_row_blocks, is_lazy, map_matrices
from devinterp_structure.steps import STEPS, described, steps_of, texts_last
from devinterp_structure.transforms import checked, row_map

#: Names of the variables of a response matrix, and of the dim of those without one chain each.
RESPONSE, LEFT_OUT, LEFT_OUT_CHAIN = "response", "response_left_out", "left_out_chain"
#: As in arXiv:2601.12703.
DEFAULT_STEPS = ("z_score", "centre_rows")


def response_matrix(
    tree: xr.DataTree,
    sampling_task: str | None = None,
    *,
    steps: Sequence[str] = DEFAULT_STEPS,
    restrictions: Sequence[str] | None = None,
    observable_names: Sequence[str] | None = None,
    include_sampling_task: bool = False,
    estimator: Estimator = "two_run",
    full: str = "full",
    initial_loss: InitialLoss = "auto",
    leave_out_chains: bool = True,
    null: bool = False,
    burnin: int | None = None,
    chains: Chains = "all",
) -> xr.Dataset:
    r"""Compute the matrix of susceptibilities of tokens (rows) to weight restrictions (columns) [1]_.

    The columns of different restrictions carry different unknown factors, which the step ``"z_score"`` removes; the step
    ``"centre_rows"`` then removes what is common to all restrictions [2]_. Steps are made in the order in which they are given,
    over the tokens of all observables together. Lazy for a lazy tree, and out of core: computing it takes two passes over the
    susceptibilities, one for the means and covariances of columns and one for the values.

    Parameters
    ----------
    tree : xarray.DataTree
        A sampling run with several restrictions, one of them of all weights, that recorded losses or moments.
    sampling_task : str, optional
        The observable made of the data that the run was sampled on; needed where there are several.
    steps : sequence of str, default: ("z_score", "centre_rows")
        What is done to the susceptibilities, the first step first: ``"z_score"`` subtracts from each column its mean over
        tokens and divides by its standard deviation, ``"centre_columns"`` subtracts the mean only, ``"centre_rows"`` subtracts
        from each token its mean over restrictions, ``"whiten"`` multiplies with the inverse square root of the covariance of
        columns (directions with less than a millionth of the largest variance are left out). Empty: the susceptibilities
        themselves.
    restrictions : sequence of str, optional
        The columns; default: all restrictions but `full`.
    observable_names : sequence of str, optional
        Take the tokens of these observables only; default: of all but the sampling task.
    include_sampling_task : bool, default: False
        Also take the tokens of the sampling task.
    estimator : {"two_run", "single_run"}, default: "two_run"
        As in ``tree.slt.susceptibilities()``.
    full : str, default: "full"
        Name of the restriction that moves all weights.
    initial_loss : {"auto", "paired", "trace"}, default: "auto"
        As in ``tree.slt.susceptibilities()``.
    leave_out_chains : bool, default: True
        Also give the matrix without one chain each, from which the errors of components and the stability of clusters are
        computed. A stored matrix is larger by as many copies of it as there are chains.
    null : bool, default: False
        Of the run's own null, sampled with ``null=True`` at ``n_beta`` 0: what its matrix shows is geometry of the prior.
    burnin : int, optional
        Leave out draws taken in this many initial steps; default: the run's ``num_burnin_steps``.
    chains : {"all", "finished"}, default: "all"
        Refuse a run with chains that did not finish, or use the chains that finished under all restrictions.

    Returns
    -------
    xarray.Dataset
        - ``response(token, restriction)``, float32. Tokens without a loss at the starting weights, as padding, have no row.
        - ``response_left_out(left_out_chain, token, restriction)``: the same without one chain, by the very same map of rows,
          with means and scales of all chains, so that the mean over ``left_out_chain`` is ``response`` up to terms of the
          order of one over the number of chains; only for two chains or more.
        - Coordinates of tokens: ``observable``, ``sequence``, ``position`` and, if the run holds token ids, ``token_id``. The
          texts themselves are ``token_ids(text_row, text_token)``; ``text`` is the row of a token's text.

        The attribute ``steps`` lists what was done, the first step first. Errors of single entries are those of
        ``tree.slt.susceptibilities()``.

    Raises
    ------
    BrokenChainsError
        If a chain diverged or is unfinished and `chains` is ``"all"``.
    InvalidInputError
        If there is no such observable, restriction or step, or (when it is computed) if a restriction whose column is to be
        divided by its standard deviation responds to all tokens alike.
    MissingDataError
        If `null` is asked for and the run has none.

    References
    ----------
    .. [1] G. Baker, G. Wang, J. Hoogland, D. Murfet. Studying small language models with susceptibilities. arXiv:2504.18274.
    .. [2] A. Gordon, G. Baker, G. Wang, W. Snell, S. van Wingerden, D. Murfet. Towards spectroscopy: susceptibility clusters in
       language models. arXiv:2601.12703.
    """
    steps = checked(steps)
    run = _null_of(tree) if arguments.flag("null", null) else tree
    prepared = PreparedRun.of(
        run,
        sampling_task,
        observable_names=observable_names,
        include_sampling_task=include_sampling_task,
        estimator=estimator,
        full=full,
        initial_loss=initial_loss,
        burnin=burnin,
        chains=chains,
        needed_by="response_matrix",
    )
    chosen = estimates.columns(prepared, restrictions, full)
    leave_out = arguments.flag("leave_out_chains", leave_out_chains) and prepared.run.sizes[CHAIN] > 1
    values = estimates.estimates(prepared, chosen, leave_out=leave_out)
    names = np.array([restriction_names(prepared.run)[index] for index in chosen], dtype=object)
    matrix = estimates.labels(prepared).assign_coords({RESTRICTION: names})
    matrix[RESPONSE] = ((TOKEN, RESTRICTION), values[0])
    if leave_out:
        matrix = matrix.assign_coords({LEFT_OUT_CHAIN: np.asarray(prepared.attrs["chains_used"])})
        matrix[LEFT_OUT] = ((LEFT_OUT_CHAIN, TOKEN, RESTRICTION), values[1:])
    parameters = {name: prepared.attrs[name] for name in ("sampling_task", "estimator", "initial_loss", "burnin")}
    matrix.attrs = {**prepared.attrs, STEPS: [described("susceptibilities", {**parameters, "null": bool(null)})]}
    return transformed(texts_last(matrix), steps)


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


def matrix_of(
    tree: xr.DataTree | xr.Dataset, sampling_task: str | None, steps: Sequence[str], *, needed_by: str
) -> xr.Dataset:
    """Return the response matrix that an analysis starts from: that of a run, or the one that it was given."""
    if isinstance(tree, xr.DataTree):
        return response_matrix(tree, sampling_task, steps=steps)
    return checked_matrix(tree, needed_by=needed_by)


def _null_of(tree: xr.DataTree) -> xr.DataTree:
    run = only(tree, name="response_matrix")
    if NULL not in run.children:
        raise MissingDataError(
            "`response_matrix`: null=True needs the run's null, in its group `null`: sample with `null=True`."
        )
    return run[NULL]  # type: ignore[return-value]


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
