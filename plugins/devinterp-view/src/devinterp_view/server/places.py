"""Places in the sequences of a run: which page they stand on, and the text around them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from devinterp.errors import InvalidInputError
from devinterp.token_text import Tokenizer
from devinterp_view.passages import Passage, num_tokens, read_passages, texts, token_ids
from devinterp_view.server.opened import Opened
from devinterp_view.server.paging import PAGE_TOKENS, Paging
from devinterp_view.subject import Subject
from devinterp_view.text import name, token

#: Tokens shown before and after a place in the text.
_BEFORE, _AFTER = 8, 3


@dataclass(frozen=True, slots=True)
class Place:
    """A token of a run.

    Parameters
    ----------
    observable : int
        Number of the observable.
    sequence, token : int
        Which of its sequences, and which token of it.
    """

    observable: int
    sequence: int
    token: int


def paging_of(subject: Subject, observable: int) -> Paging:
    """Return the pages of an observable, given by its number.

    Raises
    ------
    InvalidInputError
        If there is none of this number.
    """
    names = subject.observables
    if not 0 <= observable < len(names):
        raise InvalidInputError(f"`observable` (={observable}) must be 0 to {len(names) - 1}.")
    chosen = names[observable]
    return Paging(subject.num_sequences(chosen), num_tokens(subject.run, chosen), PAGE_TOKENS)


def check_place(subject: Subject, place: Place) -> None:
    """Raise unless a run has such a token.

    Raises
    ------
    InvalidInputError
        If it has not.
    """
    paging = paging_of(subject, place.observable)
    if not (0 <= place.sequence < paging.num_sequences and 0 <= place.token < paging.num_tokens):
        raise InvalidInputError(
            f"`sequence` (={place.sequence}) and `token` (={place.token}) must be below {paging.num_sequences} and "
            f"{paging.num_tokens}."
        )


def passages_of(subject: Subject, observable: int, page: int, tokenizer: Tokenizer | None) -> list[Passage]:
    """Return the passages of a page of an observable.

    Raises
    ------
    InvalidInputError
        If there is no such page.
    """
    paging = paging_of(subject, observable)
    if not 0 <= page < paging.num_pages:
        raise InvalidInputError(f"`page` (={page}) must be 0 to {paging.num_pages - 1}.")
    of = subject.observables[observable]
    shown = paging.on_page(page)
    return read_passages(subject.run, of, [sequence for sequence, _ in shown], tokenizer, shown[0][1])


def address(path: str, subject: Subject, place: Place) -> str:
    """Return the relative address of the page on which a token stands."""
    page = paging_of(subject, place.observable).page_of(place.sequence, place.token)
    query = urlencode({"run": path, "observable": place.observable, "page": page})
    return f"run?{query}#{place.sequence}-{place.token}"


def in_text(opened: Opened, place: Place, around: list[str], first: int) -> dict[str, Any]:
    """Return a place with the text around it, as the script shows it.

    Parameters
    ----------
    opened : Opened
        The run.
    place : Place
        The place.
    around : list of str
        Text of some tokens around it.
    first : int
        Number of the first of these.
    """
    at = place.token - first
    return {
        "label": f"{name(opened.subject.observables[place.observable])} {place.sequence}",
        "observable": place.observable,
        "sequence": place.sequence,
        "position": place.token,
        "before": "".join(map(token, around[max(0, at - _BEFORE) : at])),
        "word": token(around[at]),
        "after": "".join(map(token, around[at + 1 : at + 1 + _AFTER])),
        "href": address(opened.path, opened.subject, place),
    }


def passage_of(subject: Subject, place: Place) -> Passage:
    """Return the passage that stands on the same page as a token, without its text."""
    paging, observable = paging_of(subject, place.observable), subject.observables[place.observable]
    shown = dict(paging.on_page(paging.page_of(place.sequence, place.token)))
    return untold(observable, place.sequence, shown[place.sequence], paging.num_tokens)


def untold(observable: str, sequence: int, tokens: slice, num_tokens: int) -> Passage:
    """Return a passage without its text, for its numbers."""
    return Passage(observable, sequence, [""] * (tokens.stop - tokens.start), num_tokens, tokens.start)


def text_around(
    opened: Opened, observable: str, sequence: int, position: int, tokenizer: Tokenizer | None
) -> tuple[list[str], int]:
    """Return the text of the tokens around a position, and the number of the first of them."""
    ids = token_ids(opened.subject.run, observable, [sequence])
    first = max(0, position - _BEFORE)
    if ids is None:
        return [f" {n}" for n in range(first, position + 1 + _AFTER)], first
    return texts(ids[0], tokenizer, slice(first, position + 1 + _AFTER)), first
