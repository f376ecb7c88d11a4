"""Influences between the sequences and tokens of two sides: all pairs, or the strongest."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import xarray as xr

from devinterp.analyses.bif import traces as _traces
from devinterp.analyses.bif.averaged import averaged_rows
from devinterp.analyses.bif.selection import Side
from devinterp.analyses.bif.top_k import SIGNS, Candidates, strongest_products
from devinterp.analyses.bif.traces import Centring
from devinterp.analyses.common.blockwise import (
    TILE_BYTES,
    Array,
    Traces,
    blockwise,
    in_tiles,
    innermost,
    is_lazy,
    join,
    stored_traces,
)
from devinterp.analyses.common.uncertainty import jackknife_error
from devinterp.errors import InvalidInputError
from devinterp.schema import CHAIN, RESTRICTION

#: A block of a symmetric product: large enough for full speed, small enough for its transpose to be copied from the cache, in
#: strips so narrow that the cache holds all lines they touch.
_SQUARE, _STRIP = 1024, 64
_POSITION_1, _POSITION_2 = "target_position", "target_position_T"


@dataclass(frozen=True)
class Plan:
    """What is compared with what: ``"token"``, ``"sequence"`` or ``"averaged"``, and how."""

    method: Literal["token", "sequence", "averaged"]
    covariance: bool
    centring: Centring

    @property
    def attrs(self) -> dict[str, Any]:
        """Return what is stored with the result: method, normalisation and centring."""
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
            tiles = stored_traces(part.loss(run))
            num_samples = self.centring.num_samples(*tiles.shape[1:3])
            options: dict[str, Any] = {"centring": self.centring}
            if self.method == "token":
                width = len(side.position)
                options |= {"covariance": self.covariance, "slots": slots, "width": width}
                sizes = {"n": num_samples, "v": width}
                found.append(
                    blockwise(_traces.token_rows, "rnsv", (tiles, "rcdst"), sizes=sizes, joined=False, **options)
                )
                continue
            # Covariances are linear in the traces: their mean over pairs of tokens is the covariance of the means.
            linear = self.method == "sequence" or self.covariance
            function = _traces.sequence_rows if linear else averaged_rows
            options |= {"covariance": self.covariance} if linear else {}
            found.append(
                blockwise(function, "rns", (tiles, "rcdst"), sizes={"n": num_samples}, joined=False, **options)
            )
        return join(found, 2)

    def candidates(self, run: xr.DataTree, side: Side) -> list[Candidates]:
        """Return the candidates of a side: for tokens the traces that each task makes rows of, else their few rows."""
        if self.method != "token":
            return [Candidates(self.rows(run, side)[..., None], "rnuv", _part_of_rows, side.token[:, :1], 0)]
        found, first = [], 0
        for part, slots in zip(side.parts, side.slots, strict=True):
            options: dict[str, Any] = {"centring": self.centring, "covariance": self.covariance}
            rows = partial(_part_of_traces, slots=slots, width=len(side.position), **options)
            stop = first + len(part.sequences)
            found.append(Candidates(stored_traces(part.loss(run)), "rcduv", rows, side.token[first:stop], first))
            first = stop
        return found

    def product(self, first: Array, second: Array, share: int = 1) -> Array:
        """Return all scalar products of two sides' rows, in tiles of which `share` fit into the memory for one."""
        length = max(1, int((TILE_BYTES / 4 / share) ** 0.5))
        if self.method != "token":
            first, second = in_tiles(first, 2, length), in_tiles(second, 2, length)
            return blockwise(_sequence_products, "rsu", (first, "rns"), (second, "rnu"))
        first = in_tiles(first, 2, length // max(1, first.shape[3]))
        second = in_tiles(second, 2, length // max(1, second.shape[3]))
        return blockwise(_token_products, "rsutv", (first, "rnst"), (second, "rnuv"))


def _part_of_rows(rows: Any, sequences: slice) -> np.ndarray:
    return innermost(rows)[:, :, sequences]


def _part_of_traces(losses: Any, sequences: slice, **options: Any) -> np.ndarray:
    return _traces.token_rows(Traces(losses).some(sequences), **options)


def _token_products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    left, right = (rows.reshape(*rows.shape[:2], -1) for rows in (first, second))
    if first is second and left.shape[2] > 2 * _SQUARE:
        product = np.stack([_symmetric(rows) for rows in left]) if len(left) > 1 else _symmetric(left[0])[None]
    else:
        product = left.transpose(0, 2, 1) @ right
    blocks = product.reshape(len(product), *first.shape[2:], *second.shape[2:])
    return np.asarray(blocks.transpose(0, 1, 3, 2, 4))


def _symmetric(rows: np.ndarray) -> np.ndarray:
    """Return the products of rows ``(sample, token)`` with each other, of which little more than half are computed."""
    size = rows.shape[1]
    product = np.empty((size, size), np.float32)
    for start in range(0, size, _SQUARE):
        here = slice(start, start + _SQUARE)
        np.matmul(rows[:, here].T, rows[:, here], out=product[here, here])
        for other in range(0, start, _SQUARE):
            there = slice(other, other + _SQUARE)
            np.matmul(rows[:, here].T, rows[:, there], out=product[here, there])
            for first in range(start, min(start + _SQUARE, size), _STRIP):
                strip = slice(first, min(first + _STRIP, size))
                product[there, strip] = product[strip, there].T
    return product


def _sequence_products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.asarray(first.transpose(0, 2, 1) @ second)


def dims_of(plan: Plan, *, tokens: bool = True) -> tuple[str, ...]:
    """Return the dims of a matrix of influences."""
    pairs = (RESTRICTION, "batch_1", "batch_2")
    return (*pairs, _POSITION_1, _POSITION_2) if tokens and plan.method == "token" else pairs


def all_pairs(run: xr.DataTree, first: Side, second: Side, plan: Plan, standard_errors: bool) -> dict[str, xr.Variable]:
    """Return the influences between all pairs, and their jackknife errors."""
    num_chains = run.sizes[CHAIN]
    share = num_chains + 1 if standard_errors else 1

    def influences(part: xr.DataTree) -> Array:
        rows = plan.rows(part, first)
        return plan.product(rows, rows if second is first else plan.rows(part, second), share)

    result = {"influences": xr.Variable(dims_of(plan), influences(run))}
    if standard_errors:
        if num_chains < 2:
            raise InvalidInputError(
                "`standard_errors` are a jackknife over chains and need at least two; this run has one."
            )
        left_out = [
            run.isel({CHAIN: np.delete(np.arange(num_chains), n)}, missing_dims="ignore") for n in range(num_chains)
        ]
        error = jackknife_error([influences(part) for part in left_out])
        result["influences_se"] = xr.Variable(dims_of(plan), error, {"degrees_of_freedom": num_chains - 1})
    return result


def strongest(
    run: xr.DataTree, first: Side, second: Side, plan: Plan, k: int, exclude_self: bool
) -> dict[str, xr.Variable]:
    """Return the `k` strongest positive and negative candidates of each query, and which these are."""
    rows, numbers = plan.rows(run, first), first.token
    if plan.method != "token":
        rows, numbers = rows[..., None], numbers[:, :1]
    lazy = is_lazy(rows)
    queries = in_tiles(rows, 2, int((TILE_BYTES / 4) ** 0.5) // max(1, rows.shape[3]))
    found = strongest_products(queries, numbers, plan.candidates(run, second), k=k, exclude_self=exclude_self)
    if not lazy:
        found = found.compute(scheduler="threads")
    dims: tuple[str, ...] = (RESTRICTION, "batch_1", _POSITION_1, "sign", "rank")
    if plan.method != "token":
        found, dims = found[:, :, 0], (RESTRICTION, "batch_1", "sign", "rank")
    letters, width = "abcde"[: len(dims)], len(second.position) if plan.method == "token" else 1
    labels_of = {"batch": np.arange(len(second.sequence)), "sequence": second.sequence, "position": second.position}
    variables = {
        "influences": xr.Variable(dims, found["value"]),
        "sign": xr.Variable("sign", np.array(SIGNS, dtype=object)),
        "rank": xr.Variable("rank", np.arange(1, k + 1)),
    }
    for name, label in labels_of.items():
        if name == "position" and plan.method != "token":
            continue
        options: dict[str, Any] = {"labels": label, "width": width, "by_position": name == "position"}
        candidates = blockwise(_located, letters, (found, letters), dtype=np.int64, **options)
        variables[f"candidate_{name}"] = xr.Variable(dims, candidates)
    return variables


def _located(entries: np.ndarray, *, labels: np.ndarray, width: int, by_position: bool) -> np.ndarray:
    column = np.maximum(entries["column"], 0)
    found = labels[column % width if by_position else column // width]
    return np.where(entries["column"] >= 0, found, -1)


def labels(side: Side, number: Literal[1, 2], plan: Plan) -> dict[str, Any]:
    """Return the coordinates that say what the rows of a side are."""
    dim = f"batch_{number}"
    observable = side.observable.copy(deep=False)
    observable.dims = (dim,)
    found: dict[str, Any] = {f"observable_{number}": observable, f"sequence_{number}": (dim, side.sequence)}
    if plan.method != "sequence":
        found[_POSITION_1 if number == 1 else _POSITION_2] = side.position
    return found


def dims_of_side(plan: Plan, number: Literal[1, 2]) -> tuple[str, ...]:
    """Return the dims of what is known of each row of a side."""
    dims = (RESTRICTION, f"batch_{number}")
    return dims if plan.method == "sequence" else (*dims, _POSITION_1 if number == 1 else _POSITION_2)


def constant(run: xr.DataTree, side: Side, plan: Plan) -> Array:
    """Return which traces of a side do not vary, so that their correlations are undefined."""
    found = []
    for part, slots in zip(side.parts, side.slots, strict=True):
        tiles = stored_traces(part.loss(run))
        sizes = {} if plan.method == "sequence" else {"v": len(side.position)}
        options: dict[str, Any] = {
            "centring": plan.centring,
            "slots": slots,
            "width": len(side.position),
            "mean": plan.method == "sequence",
        }
        found.append(
            blockwise(
                _traces.constant,
                "rsv" if sizes else "rs",
                (tiles, "rcdst"),
                sizes=sizes,
                dtype=bool,
                joined=False,
                **options,
            )
        )
    return join(found, 1)


def drift_share(run: xr.DataTree, first: Side, second: Side, plan: Plan) -> Array:
    """Return the share of each covariance of sequences' mean losses within chains that linear trends make up."""
    by_chain = Centring(plan.centring.reduce, "chain")
    found: list[tuple[Array, str]] = []
    for side, letter in ((first, "s"), (second, "u")):
        tiles = [stored_traces(part.loss(run)) for part in side.parts]
        num_samples = by_chain.num_samples(*tiles[0].shape[1:3])
        num_chains = 1 if plan.centring.reduce == "mean" else tiles[0].shape[1]
        trend = [
            blockwise(
                _traces.sequence_trends, "rks", (t, "rcdst"), sizes={"k": num_chains}, joined=False, centring=by_chain
            )
            for t in tiles
        ]
        total = [
            blockwise(
                _traces.sequence_rows,
                "rns",
                (t, "rcdst"),
                sizes={"n": num_samples},
                joined=False,
                centring=by_chain,
                covariance=True,
            )
            for t in tiles
        ]
        found += [(join(trend, 2), f"rk{letter}"), (join(total, 2), f"rn{letter}")]
    return blockwise(_share, "rsu", *found)


def _share(trend_1: np.ndarray, total_1: np.ndarray, trend_2: np.ndarray, total_2: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(_sequence_products(trend_1, trend_2) / _sequence_products(total_1, total_2), np.float32)
