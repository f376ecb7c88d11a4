r"""The Bayesian influence function: how the losses of tokens and sequences move together over the posterior.

.. math:: \mathrm{cov}(\ell_x(w), \ell_y(w)) \quad \text{or} \quad \mathrm{corr}(\ell_x(w), \ell_y(w))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr

from devinterp import arguments
from devinterp.analyses.bif.pairs import all_pairs, drift_share
from devinterp.analyses.bif.plan import Plan
from devinterp.analyses.bif.selection import Selection, select
from devinterp.analyses.bif.sides import Side, TokenNumbers
from devinterp.analyses.bif.top_k import strongest
from devinterp.analyses.bif.traces import Centring
from devinterp.analyses.common.blockwise import storable
from devinterp.analyses.common.run_data import (
    STATUS_REQUIRED,
    Chains,
    burnin_steps,
    drop_draws,
    drop_single_restriction,
    noise_attrs,
    pad_tokens,
    use_chains,
)
from devinterp.errors import InvalidInputError, MissingDataError
from devinterp.hookspecs import hookimpl
from devinterp.runs import only, settings
from devinterp.schema import RESTRICTION, TOKEN
from devinterp.types import Analysis

_REQUIRES = ("observables/*/loss", *STATUS_REQUIRED)
Method = Literal["token", "sequence"]


def compute_bif(
    tree: xr.DataTree,
    method: Method = "token",
    *,
    correlation_method: Method | None = None,
    reduce_chain_dimension_method: Literal["stack", "mean"] = "stack",
    average_tokenwise_bif: bool = False,
    compute_covariance: bool = False,
    loss_keys: Selection = None,
    batch_index_range_1: Sequence[int] | np.ndarray | slice | Literal["all"] | None = "all",
    batch_index_range_2: Sequence[int] | np.ndarray | slice | Literal["all"] | None = "all",
    queries: Selection = None,
    candidates: Selection = None,
    centre: Literal["pooled", "chain"] = "pooled",
    detrend: bool = False,
    top_k: int | None = None,
    exclude_self: bool = False,
    standard_errors: bool = False,
    burnin: int | None = None,
    chains: Chains = "all",
) -> xr.Dataset:
    r"""Compute the Bayesian influence function [1]_ between tokens, or between sequences.

    .. math:: B_{xy} = \mathrm{corr}_{w}(\ell_x(w), \ell_y(w))

    over chains and draws, with the sign of the plain correlation or covariance; the paper's influence is its negative. Lazy
    for a lazy tree, and where there are more pairs than fit into 1 GiB: ``isel`` computes only its part and ``to_zarr`` writes
    tile by tile.

    Parameters
    ----------
    tree : xarray.DataTree
        A sampling run with observables.
    method : {"token", "sequence"}, default: "token"
        Between the losses of tokens, or between the mean losses of sequences.
    correlation_method : {"token", "sequence"}, optional
        DevInterp 2's name of `method`.
    reduce_chain_dimension_method : {"stack", "mean"}, default: "stack"
        Use all draws of all chains, or the mean trace over chains.
    average_tokenwise_bif : bool, default: False
        With ``method="token"``: the mean over all pairs of positions of two sequences, without computing the pairs.
    compute_covariance : bool, default: False
        Covariance (nats squared, divisor: number of samples less fitted means and trends) in place of correlation.
    loss_keys : str, list of str or dict, optional
        Observables that take part on both sides; default, or ``"all"``: all, by name in alphabetical order. A dict gives for
        each name which sequences: a slice, integers or a boolean mask; or ``(sequences, positions)``; or a boolean mask
        ``(sequence, position)``. All count from 0.
    batch_index_range_1, batch_index_range_2 : sequence of int, slice or "all", default: "all"
        Keep these of the queries and of the candidates, by their numbers counted over all observables: ``[0, 5]`` are two
        sequences, ``range(0, 5)`` are five.
    queries, candidates : str, list of str or dict, optional
        What takes part on the first and on the second side, like `loss_keys`, which is their default.
    centre : {"pooled", "chain"}, default: "pooled"
        Subtract from a trace its mean over all chains, or the mean of each chain, so that differences between chains that did
        not mix count for nothing.
    detrend : bool, default: False
        Subtract each chain's mean and linear trend. What is shared only because the chains still drift is removed; how much
        that is, is reported as ``drift_share``.
    top_k : int, optional
        Return only the strongest positive and negative candidates of each query, so many of each, without holding all pairs.
        Influences that agree to float32 rounding count as equal; equal ones stand in the order of the candidates. A candidate
        with a loss that is not a number in any draw is left out.
    exclude_self : bool, default: False
        With `top_k`: leave out each query itself.
    standard_errors : bool, default: False
        Also compute the jackknife error over chains, which takes as many times longer as there are chains (two at least).
    burnin : int, optional
        Leave out draws taken in this many initial steps; default: the run's ``num_burnin_steps``.
    chains : {"all", "finished"}, default: "all"
        Refuse a run with chains that did not finish, or use the chains that finished under all restrictions.

    Returns
    -------
    xarray.Dataset
        - ``influences``, float32: ``(batch_1, batch_2, target_position, target_position_T)`` between tokens; ``(batch_1,
          batch_2)`` between sequences or averaged; with `top_k` ``(batch_1, target_position, sign, rank)``, without
          ``target_position`` for sequences, and for each entry ``candidate_batch`` (its row on the second side),
          ``candidate_sequence`` and ``candidate_position``, or NaN and -1 where there are no more of the sign.
          With a ``restriction`` dimension in front where there are several.
        - ``influences_se``, if asked for: standard error, with the attribute ``degrees_of_freedom``.
        - ``constant_1``, ``constant_2``: which traces do not vary. Their correlations are NaN.
        - ``drift_share(batch_1, batch_2)``, if `detrend`: the share of the covariance of two sequences' mean losses within
          chains that is due to linear trends.
        - ``input_ids(batch_1, token)`` and ``candidate_input_ids(batch_2, token)``, where the run has them.

        Coordinates ``observable_1``, ``sequence_1`` and ``observable_2``, ``sequence_2`` say what each row and column is;
        ``target_position`` is the index of the predicted token. The attribute ``noise_level`` is there if the run's was not 1,
        because covariances scale with its square.

    Raises
    ------
    BrokenChainsError
        If a chain diverged or is unfinished and `chains` is ``"all"``.
    InvalidInputError
        If a selection names what is not there, selects nothing, or options exclude each other.
    MissingDataError
        If tokens are asked for of a run that recorded only the mean losses of sequences.

    References
    ----------
    .. [1] P. A. Kreer, W. Wu, M. Adam, Z. Furman, J. Hoogland. Bayesian influence functions for Hessian-free data
       attribution. arXiv:2509.26544.
    """
    run = only(tree, name="bif", requires=_REQUIRES)
    named = ("method", method) if correlation_method is None else ("correlation_method", correlation_method)
    plan = Plan(
        method=_method(*named, average_tokenwise_bif),
        covariance=arguments.flag("compute_covariance", compute_covariance),
        centring=Centring(
            _word("reduce_chain_dimension_method", reduce_chain_dimension_method, ("stack", "mean")),
            _word("centre", centre, ("pooled", "chain")),
            arguments.flag("detrend", detrend),
        ),
    )
    _check_recorded(run, plan)
    exclude_self = arguments.flag("exclude_self", exclude_self)
    standard_errors = arguments.flag("standard_errors", standard_errors)
    if top_k is not None and arguments.count("top_k", top_k, least=1) and standard_errors:
        raise InvalidInputError(
            f"`top_k` (={top_k}) goes without `standard_errors`: compute these for the pairs of the result, with `queries` and "
            "`candidates`."
        )
    run, chain_attrs = use_chains(run, chains, needed_by="bif")
    burnin = burnin_steps(run, burnin)
    run = drop_draws(run, burnin)

    rows = (batch_index_range_1, batch_index_range_2)
    first, second = _sides(TokenNumbers(run), queries, candidates, loss_keys, rows)
    # Gathered in a dict, because xarray aligns a dataset anew with each assignment.
    variables: dict[str, Any] = (
        dict(all_pairs(run, first, second, plan, standard_errors))
        if top_k is None
        else dict(strongest(run, first, second, plan, top_k, exclude_self))
    )
    variables |= _descriptions(run, first, second, plan)
    coords = {RESTRICTION: run[RESTRICTION].variable, **plan.labels(first, 1), **plan.labels(second, 2)}
    result = xr.Dataset(variables, coords, attrs={**plan.attrs, "burnin": burnin, **noise_attrs(run), **chain_attrs})
    return storable(drop_single_restriction(result))


def _sides(
    numbers: TokenNumbers, queries: Selection, candidates: Selection, default: Selection, rows: tuple[Any, Any]
) -> tuple[Side, Side]:
    """Return both sides: one object where the same takes part on both."""
    first = _side(numbers, "queries", queries, default, ("batch_index_range_1", rows[0]))
    if candidates is queries and np.array_equal(np.asarray(rows[0]), np.asarray(rows[1])):
        return first, first
    return first, _side(numbers, "candidates", candidates, default, ("batch_index_range_2", rows[1]))


def _side(
    numbers: TokenNumbers, argument: str, selection: Selection, default: Selection, rows: tuple[str, Any]
) -> Side:
    """Return the side that an argument describes, or `loss_keys` where it is not given."""
    if selection is None and default is not None:
        argument, selection = "loss_keys", default
    return select(numbers, selection, within=rows, argument=argument, needed_by="bif")


def _check_recorded(run: xr.DataTree, plan: Plan) -> None:
    if plan.method != "sequence" and settings(run).get("record") == "sequence":
        raise MissingDataError(
            "`bif` between tokens needs losses of tokens; this run recorded means of sequences (`record`): pass "
            "method='sequence', or sample with record='token'."
        )


def _descriptions(run: xr.DataTree, first: Side, second: Side, plan: Plan) -> dict[str, Any]:
    """Return the variables that describe rows and columns: which are constant, how they drift, and their token ids."""
    same, variables = second is first, {}
    if not plan.covariance:
        flags = plan.constant(run, first)
        variables["constant_1"] = (plan.side_dims(1), flags)
        variables["constant_2"] = (plan.side_dims(2), flags if same else plan.constant(run, second))
    if plan.centring.detrend:
        variables["drift_share"] = (plan.pair_dims(tokens=False), drift_share(run, first, second, plan))
    ids_1 = first.input_ids(run)
    ids = {"input_ids": ids_1, "candidate_input_ids": ids_1 if same else second.input_ids(run)}
    width = max((each.sizes[TOKEN] for each in ids.values() if each is not None), default=0)
    for (name, each), dim in zip(ids.items(), ("batch_1", "batch_2"), strict=True):
        if each is not None:
            variables[name] = ((dim, TOKEN), pad_tokens(each, width).data)
    return variables


def _method(argument: str, method: str, averaged: bool) -> Literal["token", "sequence", "averaged"]:
    arguments.word(argument, method, ("token", "sequence"))
    averaged = arguments.flag("average_tokenwise_bif", averaged)
    if averaged and method == "sequence":
        raise InvalidInputError(
            "`average_tokenwise_bif` averages over tokens: it needs method='token', not 'sequence'."
        )
    if averaged:
        return "averaged"
    return "token" if method == "token" else "sequence"


def _word(name: str, value: Any, words: tuple[str, ...]) -> Any:
    return arguments.word(name, value, words)  # Any: of the type of a Literal


@hookimpl
def devinterp_analyses() -> list[Analysis]:
    """Return the analyses of this module."""
    return [Analysis(name="bif", compute=compute_bif, requires=_REQUIRES)]
