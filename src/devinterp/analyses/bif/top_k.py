"""The strongest influences of each query, without ever holding all pairs: each task ranks a tile, and the lists are merged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from devinterp.analyses.bif import traces
from devinterp.analyses.bif.plan import Plan
from devinterp.analyses.bif.ranking import ENTRY, merge, strongest_products
from devinterp.analyses.bif.sides import Side
from devinterp.analyses.common.blockwise import (
    TILE_BYTES,
    Array,
    Traces,
    blockwise,
    in_tiles,
    innermost,
    is_lazy,
    stored_traces,
)

SIGNS = ("positive", "negative")
#: Size in bytes of the candidates' rows that a task makes at a time.
_ROW_BYTES = 2**25
#: Number of lists that one task merges.
_FAN_IN = 8


@dataclass(frozen=True)
class Candidates:
    """Some candidates, and how a task makes rows of them.

    Parameters
    ----------
    data : array
        What the rows are made of; its axes are `letters`, of which ``u`` is the sequence.
    letters : str
        One letter for each axis.
    rows : callable
        ``rows(block, sequences)`` returns the rows ``(restriction, sample, sequence, position)`` of a slice of the sequences
        of a block of `data`; a row with a NaN is never among the strongest.
    token_numbers : numpy.ndarray
        Number of each row's token, ``(sequence, position)``, negative where there is none.
    first : int
        Index of the first sequence among all candidates.
    """

    data: Array
    letters: str
    rows: Callable[[Any, slice], np.ndarray]
    token_numbers: np.ndarray
    first: int


def strongest(
    run: xr.DataTree, first: Side, second: Side, plan: Plan, k: int, exclude_self: bool
) -> dict[str, xr.Variable]:
    """Return the `k` strongest positive and negative candidates of each query, and which these are."""
    rows, token_numbers = plan.rows(run, first), first.token_number
    tokens = plan.method == "token"
    if not tokens:
        rows, token_numbers = rows[..., None], token_numbers[:, :1]
    lazy = is_lazy(rows)
    queries = in_tiles(rows, 2, int((TILE_BYTES / 4) ** 0.5) // max(1, rows.shape[3]))
    entries = _ranked(queries, token_numbers, _candidates(run, second, plan), k, exclude_self)
    if not lazy:
        entries = entries.compute(scheduler="threads")
    if not tokens:
        entries = entries[:, :, 0]
    dims = plan.ranked_dims()
    letters, width = "abcde"[: len(dims)], len(second.position) if tokens else 1
    variables = {
        "influences": xr.Variable(dims, entries["value"]),
        "sign": xr.Variable("sign", np.array(SIGNS, dtype=object)),
        "rank": xr.Variable("rank", np.arange(1, k + 1)),
    }
    labels = {"batch": np.arange(len(second.sequence)), "sequence": second.sequence}
    for name, label in (labels | {"position": second.position} if tokens else labels).items():
        options: dict[str, Any] = {"labels": label, "width": width, "by_position": name == "position"}
        candidates = blockwise(_label, letters, (entries, letters), dtype=np.int64, **options)
        variables[f"candidate_{name}"] = xr.Variable(dims, candidates)
    return variables


def _label(entries: np.ndarray, *, labels: np.ndarray, width: int, by_position: bool) -> np.ndarray:
    """Return the label of each entry's candidate, -1 where there is none."""
    column = np.maximum(entries["column"], 0)
    label = labels[column % width if by_position else column // width]
    return np.where(entries["column"] >= 0, label, -1)


def _candidates(run: xr.DataTree, side: Side, plan: Plan) -> list[Candidates]:
    """Return a side as candidates: for tokens the traces, of which each task makes its own rows, else the few rows."""
    if plan.method != "token":
        return [Candidates(plan.rows(run, side)[..., None], "rnuv", _rows_of_rows, side.token_number[:, :1], 0)]
    candidates, first = [], 0
    for part, columns in zip(side.parts, side.columns, strict=True):
        options: dict[str, Any] = {"centring": plan.centring, "covariance": plan.covariance}
        rows = partial(_rows_of_traces, columns=columns, width=len(side.position), **options)
        stop = first + len(part.sequences)
        candidates.append(
            Candidates(stored_traces(part.loss(run)), "rcduv", rows, side.token_number[first:stop], first)
        )
        first = stop
    return candidates


def _rows_of_rows(rows: Any, sequences: slice) -> np.ndarray:
    return innermost(rows)[:, :, sequences]


def _rows_of_traces(losses: Any, sequences: slice, **options: Any) -> np.ndarray:
    return traces.token_rows(Traces(losses).subset(sequences), **options)


def _ranked(
    queries: Array, token_numbers: np.ndarray, candidates: list[Candidates], k: int, exclude_self: bool
) -> Array:
    """Return each query's strongest entries over all candidates, ``(restriction, sequence, position, sign, k)``."""
    if not is_lazy(queries):
        queries = da.from_array(queries, chunks=(1, -1, -1, -1))
    entries = da.concatenate([_of(part, queries, token_numbers, k, exclude_self) for part in candidates], axis=4)
    # In rounds: each task merges a few lists, so that no task and no worker holds them all.
    while entries.numblocks[-1] > 1:
        entries = entries.rechunk({4: _FAN_IN * k})
        entries = blockwise(merge, "rstxu", (entries, "rstxu"), sizes={"u": k}, dtype=ENTRY, k=k)
    return entries


def _of(candidates: Candidates, queries: da.Array, token_numbers: np.ndarray, k: int, exclude_self: bool) -> Array:
    """Return for each block of candidates its own strongest entries, side by side along the last axis."""
    data, axis = candidates.data, candidates.letters.index("u")
    if not is_lazy(data):
        chunks = [1, *[-1] * (data.ndim - 1)]
        chunks[axis] = max(1, 4096 // max(1, data.shape[-1]))
        data = da.from_array(data, chunks=tuple(chunks))
    sequences = data.chunks[axis]
    first = candidates.first
    return blockwise(
        _tile,
        "rstxu",
        (queries, "rnst"),
        (data, candidates.letters),
        (da.from_array(token_numbers, chunks=(queries.chunks[2], -1)), "st"),
        (da.from_array(candidates.token_numbers, chunks=(sequences, -1)), "uw"),
        (da.arange(first, first + sum(sequences), chunks=(sequences,)), "u"),
        sizes={"x": 2, "u": k},
        dtype=ENTRY,
        joined=False,
        rows=candidates.rows,
        k=k,
        exclude_self=exclude_self,
    )


def _tile(
    queries: Any,
    candidates: Any,
    query_numbers: np.ndarray,
    candidate_numbers: Any,
    candidate_sequences: np.ndarray,
    *,
    rows: Callable[[Any, slice], np.ndarray],
    k: int,
    exclude_self: bool,
) -> np.ndarray:
    queries, candidate_numbers = innermost(queries), innermost(candidate_numbers)
    num_restrictions, num_samples, num_sequences, num_positions = queries.shape
    left = queries.reshape(num_restrictions, num_samples, -1)
    width = candidate_numbers.shape[1]
    # Rows of a few sequences at a time, so that little memory is needed beside what was read.
    step = max(1, _ROW_BYTES // max(1, 4 * num_samples * width))
    best: np.ndarray | None = None
    for start in range(0, len(candidate_sequences), step):
        block = slice(start, start + step)
        right = rows(candidates, block).reshape(num_restrictions, num_samples, -1)
        columns = (candidate_sequences[block, None] * width + np.arange(width)).reshape(-1)
        own = _equal_pairs(query_numbers.reshape(-1), candidate_numbers[block].reshape(-1)) if exclude_self else None
        entries = strongest_products(left, right, columns, own, k)
        best = entries if best is None else merge(np.concatenate([best, entries], axis=-1), k=k)
    assert best is not None, "a block has at least one sequence"
    return best.reshape(num_restrictions, num_sequences, num_positions, 2, k)


def _equal_pairs(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pairs of a row and a column that have the same number; negative numbers equal none."""
    order = np.argsort(columns, kind="stable")
    first, last = (np.searchsorted(columns[order], rows, side=side) for side in ("left", "right"))
    count = np.where(rows >= 0, last - first, 0)
    row = np.repeat(np.arange(len(rows)), count)
    offset = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    return row, order[np.repeat(first, count) + offset]
