"""Influences of the tokens of passages: on each other within a passage, and the strongest among many sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from devinterp.schema import CHAIN
from devinterp.token_text import Tokenizer, pieces
from devinterp_view.budget import MAX_BLOCK_BYTES, MAX_CANDIDATE_TOKENS, MAX_CHARACTERS, MAX_TOP_BYTES, Limits
from devinterp_view.passages import Passage, num_tokens, token_ids
from devinterp_view.strongest import Strongest, by_observable, strongest, strongest_errors, within
from devinterp_view.subject import Subject
from devinterp_view.text import token


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
    parts = strongest(run, passages, by_observable(candidates.rows), top_k, options)
    errors = [
        strongest_errors(run, passage, part, options) if has_errors else np.full_like(part.values, np.nan)
        for passage, part in zip(passages, parts, strict=True)
    ]
    notes = [candidates.left_out] if candidates.left_out else []
    if top_k < limits.top_k:
        notes.append(f"Of each token the {top_k} strongest influences of each sign are kept, not {limits.top_k}.")
    num_without = sum(block is None for block in blocks)
    if num_without:
        notes.append(f"Influences within a passage are left out of {num_without} passages: there is no room.")
    values, position = (np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "position"))
    row = np.concatenate([_numbered(part, candidates) for part in parts])
    return Influences(
        restriction, blocks, block_errors, values, np.concatenate(errors), row, position, candidates, notes
    )


def _numbered(part: Strongest, candidates: Candidates) -> np.ndarray:
    """Return which of the candidates each influence is of, -1 where there is none."""
    number = {row: n for n, row in enumerate(candidates.rows)}
    numbers = np.array([number[row] for row in part.rows], dtype=np.int32)
    return np.where(part.row >= 0, numbers[np.maximum(part.row, 0)], -1).astype(np.int32)


def _blocks(
    run: xr.DataTree, passages: Sequence[Passage], options: Mapping[str, Any], has_errors: bool
) -> tuple[list[np.ndarray | None], list[np.ndarray | None]]:
    """Return the influences within each passage, and their errors, as far as there is room."""
    blocks: list[np.ndarray | None] = []
    errors: list[np.ndarray | None] = []
    room = MAX_BLOCK_BYTES
    for passage in passages:
        room -= 8 * len(passage.texts) ** 2
        block, error = (None, None) if room < 0 else within(run, passage, passage, options, has_errors=has_errors)
        blocks.append(block)
        errors.append(error)
    return blocks, errors


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
    num_used = num_characters = 0
    for name, sequence in rows:
        ids = token_ids(subject.run, name, [sequence])
        length = num_tokens(subject.run, name)
        if kept and num_used + length > MAX_CANDIDATE_TOKENS:
            break
        shown = [token(each) for each in pieces(ids[0].tolist(), tokenizer)] if ids is not None else [""] * length
        num_characters += sum(map(len, shown))
        if kept and num_characters > MAX_CHARACTERS:
            break
        num_used += length
        kept.append((name, sequence))
        texts.append(shown)
    total = sum(subject.num_sequences(name) for name in names)
    left_out = (
        f"The strongest influences were looked for in {len(kept):,} of {total:,} sequences."
        if len(kept) < total
        else ""
    )
    return Candidates(kept, texts, left_out)
