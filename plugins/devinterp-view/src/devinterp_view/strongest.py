"""Influences of the tokens of passages on other tokens: within a passage, the strongest among many, and their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from devinterp.analyses.bif import compute_bif
from devinterp.schema import RESTRICTION
from devinterp_view.job import scheduler_here
from devinterp_view.layers import rows_of
from devinterp_view.passages import Passage

#: Most pairs whose errors are computed at a time.
_MAX_PAIRS = 8 * 2**20
#: An observable and one of its sequences.
Row = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Strongest:
    """The strongest influences of every token of a passage.

    Parameters
    ----------
    values : numpy.ndarray
        float32 ``(token, sign, rank)``, NaN where there are no more.
    row, position : numpy.ndarray
        int32, which of `rows` and which of its tokens; -1 where there is none.
    rows : list of (str, int)
        All candidates.
    """

    values: np.ndarray
    row: np.ndarray
    position: np.ndarray
    rows: list[Row]


def within(
    run: xr.DataTree, queries: Passage, passage: Passage, options: Mapping[str, Any], *, has_errors: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the influences float32 ``(query, token)`` of tokens on those of a passage of their sequence, and their errors."""
    result = compute_bif(
        run,
        "token",
        queries={queries.observable: ([queries.sequence], _positions(queries))},
        candidates={passage.observable: ([passage.sequence], _positions(passage))},
        standard_errors=has_errors,
        **options,
    )
    result = _computed(result, "influences", *(["influences_se"] if has_errors else []))
    first, left = queries.shown(result["target_position"].to_numpy())
    second, right = passage.shown(result["target_position_T"].to_numpy())

    def block(name: str) -> np.ndarray:
        numbers = np.full((len(queries.texts), len(passage.texts)), np.nan, np.float32)
        values = result[name].isel(batch_1=0, batch_2=0).transpose("target_position", "target_position_T").to_numpy()
        numbers[np.ix_(left, right)] = values[np.ix_(first, second)]
        return numbers

    return block("influences"), block("influences_se") if has_errors else None


def strongest(
    run: xr.DataTree,
    passages: Sequence[Passage],
    candidates: Mapping[str, Sequence[int]] | None,
    top_k: int,
    options: Mapping[str, Any],
) -> list[Strongest]:
    """Return the strongest influences of all tokens of each passage.

    Parameters
    ----------
    run : xarray.DataTree
        A run under one restriction.
    passages : sequence of Passage
        Whose tokens are the queries.
    candidates : mapping of str to sequence of int or None
        Sequences in which to look, by observable; None for all.
    top_k : int
        Of each sign.
    options : mapping
        Passed to `devinterp.analyses.bif.compute_bif`.
    """
    queries = {
        observable: (sequences, _joint_positions([each for each in passages if each.observable == observable]))
        for observable, sequences in rows_of(passages).items()
    }
    names = ("influences", "candidate_batch", "candidate_position")
    result = compute_bif(
        run, "token", queries=queries, candidates=candidates, top_k=top_k, exclude_self=True, **options
    )
    result = _computed(result, *names)
    rows, dims = _rows(result, 2), ("batch_1", "target_position", "sign", "rank")
    arrays = [result[name].transpose(*dims).to_numpy() for name in names]
    of_query = {row: number for number, row in enumerate(_rows(result, 1))}
    predicted, parts = result["target_position"].to_numpy(), []
    for passage in passages:
        shape = (len(passage.texts), 2, result.sizes["rank"])
        value, row, position = np.full(shape, np.nan, np.float32), np.full(shape, -1), np.full(shape, -1)
        is_shown, places = passage.shown(predicted)
        own = of_query[passage.observable, passage.sequence]
        value[places], row[places], position[places] = (each[own][is_shown] for each in arrays)
        parts.append(Strongest(value, row.astype(np.int32), position.astype(np.int32), rows))
    return parts


def strongest_errors(run: xr.DataTree, passage: Passage, of: Strongest, options: Mapping[str, Any]) -> np.ndarray:
    """Return the standard errors float32 ``(token, sign, rank)`` of the strongest influences, some candidates at a time."""
    errors = np.full(of.values.shape, np.nan, np.float32)
    numbers = [int(each) for each in np.unique(of.row) if each >= 0]
    width = 1 + int(of.position.max(initial=0))
    per_call = max(1, _MAX_PAIRS // (len(passage.texts) * width))
    for start in range(0, len(numbers), per_call):
        batch = numbers[start : start + per_call]
        result = compute_bif(
            run,
            "token",
            queries={passage.observable: ([passage.sequence], _positions(passage))},
            candidates=by_observable([of.rows[each] for each in batch]),
            standard_errors=True,
            **options,
        )
        result = _computed(result, "influences_se")
        _fill(errors, result, passage, of)
    return errors


def _fill(errors: np.ndarray, result: xr.Dataset, passage: Passage, of: Strongest) -> None:
    """Write the errors of a result to the influences of its candidates, in place."""
    values = result["influences_se"].isel(batch_1=0).transpose("target_position", "batch_2", "target_position_T")
    block = values.to_numpy()
    of_query = {int(label) - passage.start: n for n, label in enumerate(result["target_position"].to_numpy())}
    of_token = {int(label): n for n, label in enumerate(result["target_position_T"].to_numpy())}
    of_row = {row: number for number, row in enumerate(_rows(result, 2))}
    for index in zip(*np.nonzero(of.row >= 0), strict=True):
        batch = of_row.get(of.rows[of.row[index]])
        if batch is not None:
            errors[index] = block[of_query[int(index[0])], batch, of_token[int(of.position[index])]]


def by_observable(rows: Sequence[Row]) -> dict[str, list[int]]:
    """Return the sequences of each observable."""
    sides: dict[str, list[int]] = {}
    for observable, sequence in rows:
        sides.setdefault(observable, []).append(sequence)
    return sides


def _rows(result: xr.Dataset, side: int) -> list[Row]:
    observables, sequences = result[f"observable_{side}"].to_numpy(), result[f"sequence_{side}"].to_numpy()
    return [(str(o), int(s)) for o, s in zip(observables, sequences, strict=True)]


def _positions(passage: Passage) -> slice:
    """Return the positions among which are those that predict the tokens of a passage."""
    return slice(max(0, passage.start - 1), passage.tokens.stop)


def _joint_positions(passages: Sequence[Passage]) -> slice:
    every = [_positions(each) for each in passages]
    return slice(min(each.start for each in every), max(each.stop for each in every))


def _computed(result: xr.Dataset, *names: str) -> xr.Dataset:
    """Return these variables of a result, computed; nothing is read for others."""
    result = result.drop_vars([name for name in result.data_vars if name not in names]).compute(
        scheduler=scheduler_here()
    )
    return result.isel({RESTRICTION: 0}) if RESTRICTION in result.dims else result
