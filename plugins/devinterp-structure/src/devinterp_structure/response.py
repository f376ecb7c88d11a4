r"""The response matrix of a run: what every token of the data does to every component of a model, as rows of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from devinterp import arguments
from devinterp.analyses.common.run_data import Chains, restriction_names
from devinterp.analyses.susceptibilities.prepared import Estimator, PreparedRun
from devinterp.analyses.susceptibilities.task import InitialLoss
from devinterp.errors import MissingDataError
from devinterp.runs import only
from devinterp.schema import CHAIN, NULL, RESTRICTION, TOKEN
from devinterp_structure import estimates
from devinterp_structure.matrix import LEFT_OUT, LEFT_OUT_CHAIN, RESPONSE, checked_matrix, transformed
from devinterp_structure.steps import STEPS, described, texts_last
from devinterp_structure.transforms import checked

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
