"""How much of a run a page holds, so that a store of any size gives a file of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from devinterp.errors import DevinterpError, InvalidInputError

T = TypeVar("T")

#: Rows of tables of settings, of coefficients, of restrictions, of findings.
MAX_ROWS, MAX_FINDINGS = 1000, 100
#: Panels of traces, and points of all their curves together.
MAX_PANELS, MAX_POINTS = 12, 60_000
#: Columns of observables in the table of restrictions, and bytes of all layers of colours and of influences within passages.
MAX_OBSERVABLES, MAX_LAYER_BYTES, MAX_BLOCK_BYTES = 8, 4 * 2**20, 4 * 2**20
#: Bytes of the strongest influences of all tokens.
MAX_TOP_BYTES = 6 * 2**20
#: Tokens, and characters of their text, in which the strongest influences are looked for.
MAX_CANDIDATE_TOKENS, MAX_CHARACTERS = 16_384, 400_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What a reader may choose of how much is shown.

    Parameters
    ----------
    passages : int, default: 2
        Sequences of each observable, at least 1.
    tokens : int, default: 2048
        Tokens of all passages together, from 2 to 16,384.
    tokens_of_passage : int, default: 512
        Tokens of one passage, from its start; at least 2.
    candidates : int, default: 64
        Sequences of each observable in which the strongest influences are looked for; at least 1.
    top_k : int, default: 5
        Strongest positive and negative influences of each token, from 1 to 50.
    """

    passages: int = 2
    tokens: int = 2048
    tokens_of_passage: int = 512
    candidates: int = 64
    top_k: int = 5

    def __post_init__(self) -> None:
        bounds = {
            "passages": (1, 1000),
            "tokens": (2, 16_384),
            "tokens_of_passage": (2, 16_384),
            "candidates": (1, 10_000),
            "top_k": (1, 50),
        }
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise InvalidInputError(
                    f"`{name}` (={value}) must be {least} to {most}: it bounds the size of the file."
                )


def first(items: Sequence[T], limit: int, what: str) -> tuple[list[T], str]:
    """Return as many items as there is room for, and a sentence that says what was left out, empty if nothing was."""
    if len(items) <= limit:
        return list(items), ""
    return list(items[:limit]), f"The first {limit:,} of {len(items):,} {what} are shown."


def attempt(section: Callable[[], T]) -> tuple[T | None, str]:
    """Return a section of the page, or None and why this run does not have it."""
    try:
        return section(), ""
    except DevinterpError as error:
        return None, str(error)
