"""Influences of the tokens of passages: on each other within a passage, and the strongest among many sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from devinterp.analyses.bif import compute_bif
from devinterp.schema import CHAIN, RESTRICTION
from devinterp.token_text import Tokenizer, pieces
from devinterp_view.budget import MAX_BLOCK_BYTES, MAX_CANDIDATE_TOKENS, MAX_CHARACTERS, MAX_TOP_BYTES, Limits
from devinterp_view.layers import rows_of
from devinterp_view.passages import Passage, token_ids
from devinterp_view.subject import Subject
from devinterp_view.text import token

#: Most pairs whose errors are computed at a time.
_MAX_PAIRS = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Candidates:
    """Sequences in which the strongest influences were looked for.

    Parameters
    ----------
    rows : list of (str, int)
        Observable and sequence of each.
    texts : list of list of str
        Text of their tokens.
    left_out : str
        Which sequences were not looked at; empty if all were.
    """

    rows: list[tuple[str, int]]
    texts: list[list[str]]
    left_out: str


@dataclass(frozen=True, slots=True)
class Influences:
    """Correlations of the losses of tokens over the posterior.

    Parameters
    ----------
    restriction : str
        Which weights moved.
    blocks, block_errors : list of numpy.ndarray or None
        Of each passage float32 ``(token, token)``; None where there was no room.
    values, errors : numpy.ndarray
        float32 ``(token, sign, rank)`` over the tokens of all passages; NaN where there are no more.
    row, position : numpy.ndarray
        int32, the candidate and its token, -1 where there is none.
    candidates : Candidates
        What `row` counts.
    notes : list of str
        What was left out.
    """

    restriction: str
    blocks: list[np.ndarray | None]
    block_errors: list[np.ndarray | None]
    values: np.ndarray
    errors: np.ndarray
    row: np.ndarray
    position: np.ndarray
    candidates: Candidates
    notes: list[str]


def influences(
    subject: Subject, passages: Sequence[Passage], restriction: str, tokenizer: Tokenizer | None, limits: Limits
) -> Influences:
    """Return the influences of all tokens of the passages."""
    run = subject.under([restriction])
    options: dict[str, Any] = {"chains": subject.chains}
    has_errors = run.sizes.get(CHAIN, 1) > 1
    blocks, block_errors = _blocks(run, passages, options, has_errors)
    candidates = _candidates(subject, passages, tokenizer, limits)
    num_tokens = sum(len(passage.texts) for passage in passages)
    top_k = min(limits.top_k, max(1, MAX_TOP_BYTES // (32 * num_tokens)))  # two signs of two floats and two integers
    values, row, position = _strongest(run, passages, candidates, top_k, options)
    errors = np.full(values.shape, np.nan, np.float32)
    if has_errors:
        errors = _errors(run, passages, candidates, row, position, options)
    notes = [candidates.left_out] if candidates.left_out else []
    if top_k < limits.top_k:
        notes.append(f"Of each token the {top_k} strongest influences of each sign are kept, not {limits.top_k}.")
    num_without = sum(block is None for block in blocks)
    if num_without:
        notes.append(f"Influences within a passage are left out of {num_without} passages: there is no room.")
    return Influences(restriction, blocks, block_errors, values, errors, row, position, candidates, notes)


def _blocks(
    run: xr.DataTree, passages: Sequence[Passage], options: Mapping[str, Any], has_errors: bool
) -> tuple[list[np.ndarray | None], list[np.ndarray | None]]:
    """Return the influences within each passage, and their errors, as far as there is room."""
    blocks: list[np.ndarray | None] = []
    errors: list[np.ndarray | None] = []
    room = MAX_BLOCK_BYTES
    for passage in passages:
        length = len(passage.texts)
        room -= 8 * length**2
        if room < 0:
            blocks.append(None)
            errors.append(None)
            continue
        side = {passage.observable: ([passage.sequence], slice(0, length))}
        result = compute_bif(run, "token", queries=side, candidates=side, standard_errors=has_errors, **options)
        result = _plain(result)
        blocks.append(_square(result, "influences", length))
        errors.append(_square(result, "influences_se", length) if has_errors else None)
    return blocks, errors


def _plain(result: xr.Dataset) -> xr.Dataset:
    result = result.compute()
    return result.isel({RESTRICTION: 0}) if RESTRICTION in result.dims else result


def _square(result: xr.Dataset, name: str, length: int) -> np.ndarray:
    """Return the numbers ``(token, token)`` of one passage."""
    block = np.full((length, length), np.nan, np.float32)
    first, second = (result[dim].to_numpy() for dim in ("target_position", "target_position_T"))
    values = result[name].isel(batch_1=0, batch_2=0).transpose("target_position", "target_position_T").to_numpy()
    block[np.ix_(first[first < length], second[second < length])] = values[np.ix_(first < length, second < length)]
    return block


def _candidates(
    subject: Subject, passages: Sequence[Passage], tokenizer: Tokenizer | None, limits: Limits
) -> Candidates:
    """Return the sequences to look in: those of the passages, then of each observable in turn, as far as there is room."""
    rows = [(passage.observable, passage.sequence) for passage in passages]
    names = subject.observables
    most = max((subject.num_sequences(name) for name in names), default=0)
    rows += [
        (name, n) for n in range(min(limits.candidates, most)) for name in names if n < subject.num_sequences(name)
    ]
    rows = list(dict.fromkeys(rows))
    kept: list[tuple[str, int]] = []
    texts: list[list[str]] = []
    num_tokens = num_characters = 0
    for name, sequence in rows:
        ids = token_ids(subject.run, name, [sequence])
        length = ids.shape[1] if ids is not None else int(subject.run[f"observables/{name}"].sizes["position"]) + 1
        if kept and num_tokens + length > MAX_CANDIDATE_TOKENS:
            break
        shown = [token(each) for each in pieces(ids[0].tolist(), tokenizer)] if ids is not None else [""] * length
        num_characters += sum(map(len, shown))
        if kept and num_characters > MAX_CHARACTERS:
            break
        num_tokens += length
        kept.append((name, sequence))
        texts.append(shown)
    total = sum(subject.num_sequences(name) for name in names)
    left_out = (
        f"The strongest influences were looked for in {len(kept):,} of {total:,} sequences."
        if len(kept) < total
        else ""
    )
    return Candidates(kept, texts, left_out)


def _strongest(
    run: xr.DataTree, passages: Sequence[Passage], candidates: Candidates, top_k: int, options: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return values, candidates and their tokens ``(token, sign, rank)`` of the strongest influences of every token."""
    number = {row: n for n, row in enumerate(candidates.rows)}
    sides = _by_observable(candidates.rows)
    result = _plain(
        compute_bif(
            run, "token", queries=rows_of(passages), candidates=sides, top_k=top_k, exclude_self=True, **options
        )
    )
    observables, sequences = result["observable_2"].to_numpy(), result["sequence_2"].to_numpy()
    numbers = np.array([number[str(o), int(s)] for o, s in zip(observables, sequences, strict=True)])
    dims = ("batch_1", "target_position", "sign", "rank")
    arrays = [
        result[name].transpose(*dims).to_numpy() for name in ("influences", "candidate_batch", "candidate_position")
    ]
    row_of = {
        (str(o), int(s)): n
        for n, (o, s) in enumerate(zip(result["observable_1"].to_numpy(), result["sequence_1"].to_numpy(), strict=True))
    }
    predicted, parts = result["target_position"].to_numpy(), []
    for passage in passages:
        shape = (len(passage.texts), 2, result.sizes["rank"])
        value, row, position = np.full(shape, np.nan, np.float32), np.full(shape, -1), np.full(shape, -1)
        is_shown = predicted < len(passage.texts)
        values, batch, tokens = (each[row_of[passage.observable, passage.sequence]][is_shown] for each in arrays)
        value[predicted[is_shown]] = values
        row[predicted[is_shown]] = np.where(batch >= 0, numbers[np.maximum(batch, 0)], -1)
        position[predicted[is_shown]] = tokens
        parts.append((value, row.astype(np.int32), position.astype(np.int32)))
    value, row, position = (np.concatenate(each) for each in zip(*parts, strict=True))
    return value, row, position


def _by_observable(rows: Sequence[tuple[str, int]]) -> dict[str, list[int]]:
    sides: dict[str, list[int]] = {}
    for name, sequence in rows:
        sides.setdefault(name, []).append(sequence)
    return sides


def _errors(
    run: xr.DataTree,
    passages: Sequence[Passage],
    candidates: Candidates,
    row: np.ndarray,
    position: np.ndarray,
    options: Mapping[str, Any],
) -> np.ndarray:
    """Return the standard errors ``(token, sign, rank)`` of influences that were found, some candidates at a time."""
    errors = np.full(row.shape, np.nan, np.float32)
    start = 0
    for passage in passages:
        length = len(passage.texts)
        here = slice(start, start + length)
        start += length
        used = [int(each) for each in np.unique(row[here]) if each >= 0]
        per_call = max(1, _MAX_PAIRS // (length * max((len(candidates.texts[each]) for each in used), default=1)))
        for first in range(0, len(used), per_call):
            batch = used[first : first + per_call]
            result = _plain(
                compute_bif(
                    run,
                    "token",
                    queries={passage.observable: ([passage.sequence], slice(0, length))},
                    candidates=_by_observable([candidates.rows[each] for each in batch]),
                    standard_errors=True,
                    **options,
                )
            )
            _fill(errors[here], result, row[here], position[here], candidates)
    return errors


def _fill(
    errors: np.ndarray, result: xr.Dataset, row: np.ndarray, position: np.ndarray, candidates: Candidates
) -> None:
    """Write the errors of a result to the influences of its candidates, in place."""
    values = result["influences_se"].isel(batch_1=0).transpose("target_position", "batch_2", "target_position_T")
    block = values.to_numpy()
    of_query = {int(label): n for n, label in enumerate(result["target_position"].to_numpy())}
    of_token = {int(label): n for n, label in enumerate(result["target_position_T"].to_numpy())}
    pairs = zip(result["observable_2"].to_numpy(), result["sequence_2"].to_numpy(), strict=True)
    of_row = {(str(o), int(s)): n for n, (o, s) in enumerate(pairs)}
    for index in zip(*np.nonzero(row >= 0), strict=True):
        batch = of_row.get(candidates.rows[row[index]])
        if batch is not None:
            errors[index] = block[of_query[int(index[0])], batch, of_token[int(position[index])]]
