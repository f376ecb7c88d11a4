"""Which sequences a page shows, and the text of their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.errors import InvalidInputError
from devinterp.schema import OBSERVABLES, SEQUENCE
from devinterp.token_text import CONTEXT, Tokenizer, pieces
from devinterp_view.budget import Limits
from devinterp_view.subject import Subject
from devinterp_view.text import name, token


@dataclass(frozen=True, slots=True)
class Passage:
    """One sequence of an observable, or a part of it.

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
    start : int, default: 0
        Which of these is the first that is shown.
    """

    observable: str
    sequence: int
    texts: list[str]
    num_tokens: int
    start: int = 0

    @property
    def tokens(self) -> slice:
        """Return which tokens of the sequence are shown."""
        return slice(self.start, self.start + len(self.texts))

    @property
    def label(self) -> str:
        """Return what a page calls the passage."""
        part = f", tokens {self.start} to {self.tokens.stop - 1}" if self.start else ""
        return f"{name(self.observable)}, sequence {self.sequence}{part}"

    @property
    def short_label(self) -> str:
        """Return what a page calls it beside one of its tokens."""
        return f"{name(self.observable)} {self.sequence}"

    @property
    def left_out(self) -> str:
        """Return how many tokens after the last one are not shown; empty if none."""
        rest = self.num_tokens - self.tokens.stop
        return f"{rest:,} more tokens are left out." if rest else ""

    def shown(self, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which of some tokens of the sequence are shown, and their places among those that are."""
        is_shown = (predicted >= self.start) & (predicted < self.tokens.stop)
        return is_shown, predicted[is_shown] - self.start


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
    for observable, sequences in wanted.items():
        if observable not in subject.observables:
            known = ", ".join(map(repr, subject.observables))
            raise InvalidInputError(f"passages: {observable!r} is not one of {known}.")
        count = subject.num_sequences(observable)
        numbers = list(sequences if sequences is not None else range(min(limits.passages, count)))
        if any(not 0 <= number < count for number in numbers):
            raise InvalidInputError(f"passages of {observable!r} must be 0 to {count - 1}; got {numbers}.")
        rows += [(observable, number) for number in dict.fromkeys(numbers)]
    passages: list[Passage] = []
    room = limits.tokens
    for number, (observable, sequence) in enumerate(rows):
        [passage] = read_passages(
            subject.run, observable, [sequence], tokenizer, slice(0, min(room, limits.tokens_of_passage))
        )
        if len(passage.texts) < 2:
            return passages, f"The first {number:,} of {len(rows):,} passages are shown: {limits.tokens:,} tokens."
        passages.append(passage)
        room -= len(passage.texts)
    return passages, ""


def read_passages(
    run: xr.DataTree, observable: str, sequences: Sequence[int], tokenizer: Tokenizer | None, tokens: slice
) -> list[Passage]:
    """Return some tokens of some sequences, with the text that each adds to those before it.

    Parameters
    ----------
    run : xarray.DataTree
        A run.
    observable : str
        Name of one of its observables.
    sequences : sequence of int
        Which of its sequences.
    tokenizer : Tokenizer, optional
        Decodes token ids.
    tokens : slice
        Which tokens of each, from a start to a stop.
    """
    ids = token_ids(run, observable, sequences)
    if ids is None:
        length = num_tokens(run, observable)
        numbers = [f" {n}" for n in range(length)[tokens]]
        return [Passage(observable, sequence, numbers, length, tokens.start) for sequence in sequences]
    return [
        Passage(observable, sequence, [token(each) for each in texts(row, tokenizer, tokens)], len(row), tokens.start)
        for sequence, row in zip(sequences, ids, strict=True)
    ]


def texts(ids: np.ndarray, tokenizer: Tokenizer | None, tokens: slice) -> list[str]:
    """Return the text that some tokens of a sequence, from a start to a stop, add to those before them."""
    before = min(CONTEXT, tokens.start)  # text of a token depends on those before it
    return pieces(ids[tokens.start - before : tokens.stop].tolist(), tokenizer)[before:]


def token_ids(run: xr.DataTree, name: str, sequences: Sequence[int]) -> np.ndarray | None:
    """Return the token ids ``(sequence, token)`` of sequences of an observable, or None where the run has none."""
    path = f"{OBSERVABLES}/{name}/token_ids"
    if schema.missing(run, [path]):
        return None
    return np.asarray(run[path].isel({SEQUENCE: list(sequences)}).to_numpy())


def num_tokens(run: xr.DataTree, observable: str) -> int:
    """Return how many tokens the sequences of an observable have."""
    sizes = run[f"{OBSERVABLES}/{observable}"].sizes
    return int(sizes.get(schema.TOKEN, sizes.get(schema.POSITION, 0) + 1))
