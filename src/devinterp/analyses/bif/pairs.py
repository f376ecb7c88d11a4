"""Influences between all pairs of two sides, and how much of them linear trends in time make up."""

from __future__ import annotations

import math

import dask.array as da
import numpy as np
import xarray as xr

from devinterp.analyses.bif import traces
from devinterp.analyses.bif.plan import Plan
from devinterp.analyses.bif.sides import Side
from devinterp.analyses.bif.traces import Centring
from devinterp.analyses.common.blockwise import TILE_BYTES, Array, blockwise, in_tiles, is_lazy, join, stored_traces
from devinterp.analyses.common.uncertainty import jackknife_error
from devinterp.errors import InvalidInputError
from devinterp.schema import CHAIN

#: Size of the blocks of a symmetric product: large enough for the full speed of the matrix product, small enough for a block to
#: be transposed in the processor's cache, in strips so narrow that the cache holds every line they touch.
_SQUARE, _STRIP = 1024, 64

#: A larger result, in bytes, is lazy although the losses are in memory.
LAZY_BYTES = 2**30


def all_pairs(run: xr.DataTree, first: Side, second: Side, plan: Plan, standard_errors: bool) -> dict[str, xr.Variable]:
    """Return the influences between all pairs, and their jackknife errors if asked for."""
    num_chains = run.sizes[CHAIN]
    at_once = num_chains + 1 if standard_errors else 1

    def influences(part: xr.DataTree) -> Array:
        rows = plan.rows(part, first)
        return _product(rows, rows if second is first else plan.rows(part, second), at_once)

    result = {"influences": xr.Variable(plan.pair_dims(), influences(run))}
    if standard_errors:
        if num_chains < 2:
            raise InvalidInputError(
                "`standard_errors` are a jackknife over chains and need at least two; this run has one."
            )
        left_out = [
            run.isel({CHAIN: np.delete(np.arange(num_chains), n)}, missing_dims="ignore") for n in range(num_chains)
        ]
        error = jackknife_error([influences(part) for part in left_out])
        result["influences_se"] = xr.Variable(plan.pair_dims(), error, {"degrees_of_freedom": num_chains - 1})
    return result


def _product(first: Array, second: Array, at_once: int) -> Array:
    """Return all scalar products of two sides' rows, in tiles so small that `at_once` of them fit into `TILE_BYTES`."""
    length = max(1, int((TILE_BYTES / 4 / at_once) ** 0.5))
    num_pairs = math.prod(first.shape[2:]) * math.prod(second.shape[2:])
    if not is_lazy(first) and 4 * at_once * first.shape[0] * num_pairs > LAZY_BYTES:
        first, second = (da.from_array(rows, chunks=(1, *[-1] * (rows.ndim - 1))) for rows in (first, second))
    if first.ndim == 3:
        first, second = in_tiles(first, 2, length), in_tiles(second, 2, length)
        return blockwise(_sequence_products, "rsu", (first, "rns"), (second, "rnu"))
    first = in_tiles(first, 2, length // max(1, first.shape[3]))
    second = in_tiles(second, 2, length // max(1, second.shape[3]))
    return blockwise(_token_products, "rsutv", (first, "rnst"), (second, "rnuv"))


def _sequence_products(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.asarray(first.transpose(0, 2, 1) @ second)


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
        block = slice(start, start + _SQUARE)
        np.matmul(rows[:, block].T, rows[:, block], out=product[block, block])
        for earlier in range(0, start, _SQUARE):
            other = slice(earlier, earlier + _SQUARE)
            np.matmul(rows[:, block].T, rows[:, other], out=product[block, other])
            for first in range(start, min(start + _SQUARE, size), _STRIP):
                strip = slice(first, min(first + _STRIP, size))
                product[other, strip] = product[strip, other].T
    return product


def drift_share(run: xr.DataTree, first: Side, second: Side, plan: Plan) -> Array:
    """Return the share of each covariance of sequences' mean losses within chains that linear trends make up."""
    trend_1, total_1 = _trends_and_rows(run, first, plan.centring)
    trend_2, total_2 = (trend_1, total_1) if second is first else _trends_and_rows(run, second, plan.centring)
    return blockwise(_share, "rsu", (trend_1, "rks"), (total_1, "rns"), (trend_2, "rku"), (total_2, "rnu"))


def _trends_and_rows(run: xr.DataTree, side: Side, centring: Centring) -> tuple[Array, Array]:
    """Return a side's trends ``(restriction, chain, sequence)`` and rows ``(restriction, sample, sequence)`` within chains."""
    by_chain = Centring(centring.reduce, "chain")
    trends, rows = [], []
    for part in side.parts:
        losses = (stored_traces(part.loss(run)), "rcdst")
        num_chains, num_draws = losses[0].shape[1:3]
        sizes = {"k": by_chain.num_samples(num_chains, 1), "n": by_chain.num_samples(num_chains, num_draws)}
        trends.append(
            blockwise(traces.sequence_trends, "rks", losses, sizes={"k": sizes["k"]}, joined=False, centring=by_chain)
        )
        rows.append(
            blockwise(
                traces.sequence_rows,
                "rns",
                losses,
                sizes={"n": sizes["n"]},
                joined=False,
                centring=by_chain,
                covariance=True,
            )
        )
    return join(trends, 2), join(rows, 2)


def _share(trend_1: np.ndarray, total_1: np.ndarray, trend_2: np.ndarray, total_2: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(_sequence_products(trend_1, trend_2) / _sequence_products(total_1, total_2), np.float32)
