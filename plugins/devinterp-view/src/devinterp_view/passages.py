"""Which sequences a page shows, and the text of their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.errors import InvalidInputError
from devinterp.schema import OBSERVABLES, SEQUENCE
from devinterp.token_text import Tokenizer, pieces
from devinterp_view.budget import Limits
from devinterp_view.subject import Subject
from devinterp_view.text import token


@dataclass(frozen=True, slots=True)
class Passage:
    """One sequence of an observable, from its start.

    Parameters
    ----------
    observable : str
        Name of the observable, as it is in the run.
    sequence : int
        Which of its sequences.
    texts : list of str
        Text of each token that is shown.
    num_tokens : int
        Tokens of the whole sequence.
    """

    observable: str
    sequence: int
    texts: list[str]
    num_tokens: int


def parse(given: Sequence[str]) -> dict[str, list[int] | None]:
    """Return what ``name``, ``name:3`` or ``name:0-2,5`` stand for: the sequences of each observable, None for the first ones.

    Raises
    ------
    InvalidInputError
        If one looks otherwise.
    """
    chosen: dict[str, list[int] | None] = {}
    for each in given:
        observable, colon, numbers = each.partition(":")
        if not colon:
            chosen[observable] = None
            continue
        sequences: list[int] = []
        for part in numbers.split(","):
            first, dash, last = part.partition("-")
            if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) - int(first) > 10_000):
                raise InvalidInputError(f"`passages` (={each!r}) must look like name, name:3 or name:0-2,5.")
            sequences += range(int(first), int(last if dash else first) + 1)
        chosen[observable] = (chosen.get(observable) or []) + sequences
    return chosen


def choose(
    subject: Subject, chosen: Mapping[str, Sequence[int] | None] | None, tokenizer: Tokenizer | None, limits: Limits
) -> tuple[list[Passage], str]:
    """Return the passages to show, and what there was no room for.

    Raises
    ------
    InvalidInputError
        If one names an observable or a sequence that is not there.
    """
    wanted = chosen if chosen else dict.fromkeys(subject.observables)
    rows: list[tuple[str, int]] = []
    for name, sequences in wanted.items():
        if name not in subject.observables:
            raise InvalidInputError(f"passages: {name!r} is not one of {', '.join(map(repr, subject.observables))}.")
        count = subject.num_sequences(name)
        numbers = list(sequences if sequences is not None else range(min(limits.passages, count)))
        if any(not 0 <= number < count for number in numbers):
            raise InvalidInputError(f"passages of {name!r} must be 0 to {count - 1}; got {numbers}.")
        rows += [(name, number) for number in dict.fromkeys(numbers)]
    passages: list[Passage] = []
    room = limits.tokens
    for number, (name, sequence) in enumerate(rows):
        passage = _passage(subject.run, name, sequence, tokenizer, min(room, limits.tokens_of_passage))
        if len(passage.texts) < 2:
            return passages, f"The first {number:,} of {len(rows):,} passages are shown: {limits.tokens:,} tokens."
        passages.append(passage)
        room -= len(passage.texts)
    return passages, ""


def _passage(run: xr.DataTree, name: str, sequence: int, tokenizer: Tokenizer | None, room: int) -> Passage:
    ids = token_ids(run, name, [sequence])
    if ids is None:
        length = _num_positions(run, name) + 1
        return Passage(name, sequence, [f" {n}" for n in range(min(length, room))], length)
    return Passage(name, sequence, [token(each) for each in pieces(ids[0, :room].tolist(), tokenizer)], ids.shape[1])


def token_ids(run: xr.DataTree, name: str, sequences: Sequence[int]) -> np.ndarray | None:
    """Return the token ids ``(sequence, token)`` of sequences of an observable, or None where the run has none."""
    path = f"{OBSERVABLES}/{name}/token_ids"
    if schema.missing(run, [path]):
        return None
    return np.asarray(run[path].isel({SEQUENCE: list(sequences)}).to_numpy())


def _num_positions(run: xr.DataTree, name: str) -> int:
    return int(run[f"{OBSERVABLES}/{name}"].sizes.get(schema.POSITION, 0))
