r"""The Bayesian influence function: how the losses of tokens and sequences move together over the posterior.

.. math:: \mathrm{cov}(\ell_x(w), \ell_y(w)) \quad \text{or} \quad \mathrm{corr}(\ell_x(w), \ell_y(w))
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import xarray as xr

from devinterp.analyses import _traces
from devinterp.analyses._lazy import TILE_BYTES, Array, blockwise, in_tiles, is_lazy, join, whole_traces
from devinterp.analyses._run import (
    STATUS_REQUIRED,
    Chains,
    burnin_steps,
    drop_draws,
    drop_single_restriction,
    one_run,
    use_chains,
)
from devinterp.analyses._selection import Catalogue, Selection, Side, select, widened
from devinterp.analyses._top import SIGNS, strongest_products
from devinterp.analyses._traces import Centring
from devinterp.analyses.uncertainty import jackknife_error
from devinterp.errors import InvalidInputError
from devinterp.hookspecs import hookimpl
from devinterp.schema import CHAIN, RESTRICTION, TOKEN
from devinterp.types import Analysis

_REQUIRES = ("observables/*/loss", *STATUS_REQUIRED)
Method = Literal["token", "sequence"]
_POSITION_1, _POSITION_2 = "target_position", "target_position_T"


def compute_bif(
    tree: xr.DataTree,
    method: Method = "token",
    *,
    correlation_method: Method | None = None,
    reduce_chain_dimension_method: Literal["stack", "mean"] = "stack",
    average_tokenwise_bif: bool = False,
    compute_covariance: bool = False,
    loss_keys: Selection = None,
    batch_index_range_1: tuple[int, int] | None = None,
    batch_index_range_2: tuple[int, int] | None = None,
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
    for a lazy tree: ``isel`` computes only its part and ``to_zarr`` writes tile by tile.

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
        Observables that take part on both sides; default: all, by name in alphabetical order. A dict gives for each name
        which sequences: a slice, integers or a boolean mask; or ``(sequences, positions)``; or a boolean mask
        ``(sequence, position)``. All count from 0.
    batch_index_range_1, batch_index_range_2 : (int, int), optional
        Keep these sequences, from the first up to but not including the second, of the queries and of the candidates.
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
          ``target_position`` for sequences, and ``candidate_observable``, ``candidate_sequence`` and ``candidate_position``.
          With a ``restriction`` dimension in front where there are several.
        - ``influences_se``, if asked for: standard error, with the attribute ``degrees_of_freedom``.
        - ``constant_1``, ``constant_2``: which traces do not vary. Their correlations are NaN.
        - ``drift_share(batch_1, batch_2)``, if `detrend`: the share of the covariance of two sequences' mean losses within
          chains that is due to linear trends.
        - ``input_ids(batch_1, token)`` and ``candidate_input_ids(batch_2, token)``, where the run has them.

        Coordinates ``observable_1``, ``sequence_1`` and ``observable_2``, ``sequence_2`` say what each row and column is;
        ``target_position`` is the index of the predicted token.

    Raises
    ------
    BrokenChainsError
        If a chain diverged or is unfinished and `chains` is ``"all"``.
    InvalidInputError
        If a selection names what is not there, selects nothing, or options exclude each other.

    References
    ----------
    .. [1] P. A. Kreer, W. Wu, M. Adam, Z. Furman, J. Hoogland. Bayesian influence functions for Hessian-free data
       attribution. arXiv:2509.26544.
    """
    run = one_run(tree, _REQUIRES, needed_by="bif")
    plan = _Plan(
        method=_method(correlation_method or method, average_tokenwise_bif),
        covariance=compute_covariance,
        centring=Centring(
            _one_of("reduce_chain_dimension_method", reduce_chain_dimension_method, ("stack", "mean")),
            _one_of("centre", centre, ("pooled", "chain")),
            detrend,
        ),
    )
    run, used = use_chains(run, chains, needed_by="bif")
    burnin = burnin_steps(run, burnin)
    run = drop_draws(run, burnin)
    catalogue = Catalogue(run)
    choose = partial(select, catalogue, needed_by="bif")
    first = choose(loss_keys if queries is None else queries, within=batch_index_range_1, argument="queries")
    same = candidates is queries and batch_index_range_1 == batch_index_range_2
    second = (
        first
        if same
        else choose(loss_keys if candidates is None else candidates, within=batch_index_range_2, argument="candidates")
    )
    if top_k is None:
        result = _all_pairs(run, first, second, plan, standard_errors)
    elif top_k < 1 or standard_errors:
        raise InvalidInputError(
            f"`top_k` (={top_k}) must be at least 1, and goes without `standard_errors`: compute these for the pairs found, "
            "with `queries` and `candidates`."
        )
    else:
        result = _strongest(run, catalogue, first, second, plan, top_k, exclude_self)
    sides: tuple[tuple[Literal[1, 2], Side], ...] = ((1, first), (2, second))
    for number, side in sides:
        result = result.assign_coords(_labels(side, number, plan))
        if not compute_covariance:
            result[f"constant_{number}"] = _constant(run, side, number, plan)
    if detrend:
        result["drift_share"] = (_dims(plan, tokens=False), _drift_share(run, first, second, plan))
    ids = [side.input_ids(run) for side in (first, second)]
    width = max((found.sizes[TOKEN] for found in ids if found is not None), default=0)
    for name, dim, found in zip(("input_ids", "candidate_input_ids"), ("batch_1", "batch_2"), ids, strict=True):
        if found is not None:
            result[name] = ((dim, TOKEN), widened(found, width).data)
    result = result.assign_coords({RESTRICTION: run[RESTRICTION].variable})
    result.attrs = {**plan.attrs, "burnin": burnin, **used}
    return drop_single_restriction(result)


@dataclass(frozen=True)
class _Plan:
    """What is compared with what: ``"token"``, ``"sequence"`` or ``"averaged"``, and how."""

    method: Literal["token", "sequence", "averaged"]
    covariance: bool
    centring: Centring

    @property
    def attrs(self) -> dict[str, Any]:
        return {
            "method": "sequence" if self.method == "sequence" else "token",
            "average_tokenwise_bif": int(self.method == "averaged"),
            "compute_covariance": int(self.covariance),
            "reduce_chain_dimension_method": self.centring.reduce,
            "centre": self.centring.centre,
            "detrend": int(self.centring.detrend),
        }

    def rows(self, run: xr.DataTree, side: Side) -> Array:
        """Return unit rows ``(restriction, sample, sequence[, position])`` of a side."""
        found = []
        for part, slots in zip(side.parts, side.slots, strict=True):
            tiles = whole_traces(part.loss(run))
            num_samples = self.centring.num_samples(*tiles.shape[1:3])
            options: dict[str, Any] = {"centring": self.centring}
            if self.method == "token":
                width = len(side.position)
                options |= {"covariance": self.covariance, "slots": slots, "width": width}
                sizes = {"n": num_samples, "v": width}
                found.append(blockwise(_traces.token_rows, "rnsv", (tiles, "rcdst"), sizes=sizes, **options))
                continue
            # Covariances are linear in the traces: their mean over pairs of tokens is the covariance of the means.
            linear = self.method == "sequence" or self.covariance
            function = _traces.sequence_rows if linear else _traces.averaged_rows
            options |= {"covariance": self.covariance} if linear else {}
            found.append(blockwise(function, "rns", (tiles, "rcdst"), sizes={"n": num_samples}, **options))
        return join(found, 2)

    def product(self, first: Array, second: Array, share: int = 1) -> Array:
        """Return all scalar products of two sides' rows, in tiles of which `share` fit into the memory for one."""
        length = max(1, int((TILE_BYTES / 4 / share) ** 0.5))
        if self.method != "token":
            first, second = in_tiles(first, 2, length), in_tiles(second, 2, length)
            return blockwise(_sequence_products, "rsu", (first, "rns"), (second, "rnu"))
        first = in_tiles(first, 2, length // max(1, first.shape[3]))
        second = in_tiles(second, 2, length // max(1, second.shape[3]))
        return blockwise(_token_products, "rsutv", (first, "rnst"), (second, "rnuv"))


def _token_products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    left, right = (rows.reshape(*rows.shape[:2], -1) for rows in (first, second))
    product = left.transpose(0, 2, 1) @ right
    blocks = product.reshape(len(product), *first.shape[2:], *second.shape[2:])
    return np.asarray(blocks.transpose(0, 1, 3, 2, 4))


def _sequence_products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.asarray(first.transpose(0, 2, 1) @ second)


def _dims(plan: _Plan, *, tokens: bool = True) -> tuple[str, ...]:
    pairs = (RESTRICTION, "batch_1", "batch_2")
    return (*pairs, _POSITION_1, _POSITION_2) if tokens and plan.method == "token" else pairs


def _all_pairs(run: xr.DataTree, first: Side, second: Side, plan: _Plan, standard_errors: bool) -> xr.Dataset:
    num_chains = run.sizes[CHAIN]
    share = num_chains + 1 if standard_errors else 1

    def influences(part: xr.DataTree) -> Array:
        rows = plan.rows(part, first)
        return plan.product(rows, rows if second is first else plan.rows(part, second), share)

    result = xr.Dataset({"influences": (_dims(plan), influences(run))})
    if standard_errors:
        if num_chains < 2:
            raise InvalidInputError(
                "`standard_errors` are a jackknife over chains and need at least two; this run has one."
            )
        left_out = [
            run.isel({CHAIN: np.delete(np.arange(num_chains), n)}, missing_dims="ignore") for n in range(num_chains)
        ]
        result["influences_se"] = (_dims(plan), jackknife_error([influences(part) for part in left_out]))
        result["influences_se"].attrs = {"degrees_of_freedom": num_chains - 1}
    return result


def _strongest(
    run: xr.DataTree, catalogue: Catalogue, first: Side, second: Side, plan: _Plan, k: int, exclude_self: bool
) -> xr.Dataset:
    rows = [plan.rows(run, side) for side in (first, second)]
    numbers = [side.token for side in (first, second)]
    if plan.method != "token":
        rows, numbers = [side[..., None] for side in rows], [side[:, :1] for side in numbers]
    lazy = is_lazy(rows[0])
    first_rows = in_tiles(rows[0], 2, int((TILE_BYTES / 4) ** 0.5) // max(1, rows[0].shape[3]))
    found = strongest_products(first_rows, rows[1], *numbers, k=k, exclude_self=exclude_self)
    if not lazy:
        found = found.compute(scheduler="threads")
    dims: tuple[str, ...] = (RESTRICTION, "batch_1", _POSITION_1, "sign", "rank")
    if plan.method != "token":
        found, dims = found[:, :, 0], (RESTRICTION, "batch_1", "sign", "rank")
    names = np.array([*catalogue.names, ""], dtype=object)

    def located(entries: np.ndarray, *, what: int) -> np.ndarray:
        place = catalogue.locate(entries["token"])[what]
        return names[place] if what == 0 else place

    letters = "abcde"[: len(dims)]
    variables: dict[str, Any] = {"influences": (dims, found["value"])}
    wanted = ("observable", "sequence", "position")[: 3 if plan.method == "token" else 2]
    for what, name in enumerate(wanted):
        kind = object if what == 0 else np.int64
        variables[f"candidate_{name}"] = (dims, blockwise(located, letters, (found, letters), dtype=kind, what=what))
    return xr.Dataset(variables, coords={"sign": list(SIGNS), "rank": np.arange(1, k + 1)})


def _labels(side: Side, number: Literal[1, 2], plan: _Plan) -> dict[str, Any]:
    dim = f"batch_{number}"
    labels: dict[str, Any] = {
        f"observable_{number}": (dim, side.observable),
        f"sequence_{number}": (dim, side.sequence),
    }
    if plan.method != "sequence":
        labels[_POSITION_1 if number == 1 else _POSITION_2] = side.position
    return labels


def _constant(run: xr.DataTree, side: Side, number: Literal[1, 2], plan: _Plan) -> xr.Variable:
    found = []
    for part, slots in zip(side.parts, side.slots, strict=True):
        tiles = whole_traces(part.loss(run))
        sizes = {} if plan.method == "sequence" else {"v": len(side.position)}
        options = {
            "centring": plan.centring,
            "slots": slots,
            "width": len(side.position),
            "mean": plan.method == "sequence",
        }
        found.append(
            blockwise(_traces.constant, "rsv" if sizes else "rs", (tiles, "rcdst"), sizes=sizes, dtype=bool, **options)
        )
    dims: tuple[str, ...] = (RESTRICTION, f"batch_{number}")
    if plan.method != "sequence":
        dims = (*dims, _POSITION_1 if number == 1 else _POSITION_2)
    return xr.Variable(dims, join(found, 1))


def _drift_share(run: xr.DataTree, first: Side, second: Side, plan: _Plan) -> Array:
    by_chain = Centring(plan.centring.reduce, "chain")
    found: list[tuple[Array, str]] = []
    for side, letter in ((first, "s"), (second, "u")):
        tiles = [whole_traces(part.loss(run)) for part in side.parts]
        num_samples = by_chain.num_samples(*tiles[0].shape[1:3])
        num_chains = 1 if plan.centring.reduce == "mean" else tiles[0].shape[1]
        trend = [
            blockwise(_traces.sequence_trends, "rks", (t, "rcdst"), sizes={"k": num_chains}, centring=by_chain)
            for t in tiles
        ]
        total = [
            blockwise(
                _traces.sequence_rows, "rns", (t, "rcdst"), sizes={"n": num_samples}, centring=by_chain, covariance=True
            )
            for t in tiles
        ]
        found += [(join(trend, 2), f"rk{letter}"), (join(total, 2), f"rn{letter}")]
    return blockwise(_share, "rsu", *found)


def _share(trend_1: np.ndarray, total_1: np.ndarray, trend_2: np.ndarray, total_2: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(_sequence_products(trend_1, trend_2) / _sequence_products(total_1, total_2), np.float32)


def _method(method: str, averaged: bool) -> Literal["token", "sequence", "averaged"]:
    _one_of("method", method, ("token", "sequence"))
    if averaged and method == "sequence":
        raise InvalidInputError(
            "`average_tokenwise_bif` averages over tokens: it needs method='token', not 'sequence'."
        )
    if averaged:
        return "averaged"
    return "token" if method == "token" else "sequence"


def _one_of(name: str, value: Any, allowed: tuple[str, ...]) -> Any:
    if value not in allowed:
        raise InvalidInputError(f"`{name}` (={value!r}) must be one of {list(allowed)}.")
    return value


@hookimpl
def devinterp_analyses() -> list[Analysis]:
    """Return the analyses of this module."""
    return [Analysis(name="bif", compute=compute_bif, requires=_REQUIRES)]
