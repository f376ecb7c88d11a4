"""Numbers of tokens that are computed when they are asked for: layers of a page, and what moves with a token in all data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import numpy as np

from devinterp.errors import InvalidInputError
from devinterp.schema import CHAIN
from devinterp.token_text import CONTEXT, Tokenizer, pieces
from devinterp_view.budget import Limits
from devinterp_view.html import packed
from devinterp_view.layers import layers_of
from devinterp_view.passages import Passage, num_tokens, read_passages, token_ids
from devinterp_view.server.cache import Cache
from devinterp_view.server.opened import Opened
from devinterp_view.server.paging import PAGE_TOKENS, Paging
from devinterp_view.strongest import Row, Strongest, strongest, strongest_errors, within
from devinterp_view.subject import Subject
from devinterp_view.text import name, token

#: Tokens of one sequence whose strongest candidates are looked for at the same time: reading the data takes longer than
#: comparing so many, and the next token that somebody clicks is mostly one of them.
BLOCK = 128
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


def in_text(opened: Opened, place: Place, texts: list[str], first: int) -> dict[str, Any]:
    """Return a place with the text around it, as the script shows it.

    Parameters
    ----------
    opened : Opened
        The run.
    place : Place
        The place.
    texts : list of str
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
        "before": "".join(map(token, texts[max(0, at - _BEFORE) : at])),
        "word": token(texts[at]),
        "after": "".join(map(token, texts[at + 1 : at + 1 + _AFTER])),
        "href": address(opened.path, opened.subject, place),
    }


def layer(opened: Opened, passages: list[Passage], kind: str, restriction: str, task: str | None) -> dict[str, Any]:
    """Return the numbers of one layer of the tokens of a page."""
    if kind not in ("llc", "susceptibility"):
        raise InvalidInputError(f"`kind` (={kind!r:.80}) must be 'llc' or 'susceptibility'.")
    [made] = layers_of(opened.subject, passages, kind, [restriction], task)
    return made.numbers()


def passage_of(subject: Subject, place: Place) -> Passage:
    """Return the passage that stands on the same page as a token, without its text."""
    paging, observable = paging_of(subject, place.observable), subject.observables[place.observable]
    shown = dict(paging.on_page(paging.page_of(place.sequence, place.token)))
    return _untold(observable, place.sequence, shown[place.sequence], paging.num_tokens)


def _untold(observable: str, sequence: int, tokens: slice, num_tokens: int) -> Passage:
    return Passage(observable, sequence, [""] * (tokens.stop - tokens.start), num_tokens, tokens.start)


def influence(
    opened: Opened,
    place: Place,
    passage: Passage,
    restriction: str,
    tokenizer: Tokenizer | None,
    limits: Limits,
    cache: Cache,
    hand_out: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Return what moves with a token: the tokens of its own passage, and the strongest candidates in all data.

    Parameters
    ----------
    opened : Opened
        The run.
    place : Place
        The token.
    passage : Passage
        The tokens around it that are coloured.
    restriction : str
        Which weights moved.
    tokenizer : Tokenizer, optional
        Decodes token ids.
    limits : Limits
        How many candidates of each sign.
    cache : Cache
        Keeps the strongest candidates of the tokens around.
    hand_out : callable, optional
        Is given the same without errors of the strongest, for which some data are read again, as soon as it is known.
    """
    subject, observable, total = opened.subject, passage.observable, passage.num_tokens
    run, options = subject.under([restriction]), {"chains": subject.chains}
    has_errors = run.sizes.get(CHAIN, 1) > 1
    query = _untold(observable, place.sequence, slice(place.token, place.token + 1), total)
    value, error = within(run, query, passage, options, has_errors=has_errors)
    start = place.token // BLOCK * BLOCK
    block = _untold(observable, place.sequence, slice(start, min(start + BLOCK, total)), total)
    key = ("strongest", opened.path, opened.stamp, restriction, place.observable, place.sequence, start, limits.top_k)

    def look() -> Strongest:
        [part] = strongest(run, [block], None, limits.top_k, options)
        return _used(part)

    one = _of_token(_kept(cache, key, look), place.token - start)
    errors = np.full_like(one.values, np.nan)
    unknown = "Its loss does not vary, or is not predicted: nothing moves with it."

    def said() -> dict[str, Any]:
        sides = [[_entry(opened, one, errors, sign, rank, tokenizer) for rank in _ranks(one, sign)] for sign in (0, 1)]
        return {
            "sides": sides,
            "value": packed(value[0]),
            "error": None if error is None else packed(error[0]),
            "notes": [] if (one.row >= 0).any() else [unknown],
        }

    if has_errors:
        if hand_out is not None:
            hand_out(said())
        errors = strongest_errors(run, query, one, options)
    return said()


def _kept(cache: Cache, key: tuple[Any, ...], compute: Callable[[], Strongest]) -> Strongest:
    kept: Strongest | None = cache.get(key)
    if kept is None:
        kept = compute()
        size = kept.values.nbytes + kept.row.nbytes + kept.position.nbytes + 200 * len(kept.rows)
        cache.put(key, kept, size)
    return kept


def _used(part: Strongest) -> Strongest:
    """Return the same without the candidates that are nobody's strongest."""
    used, row = np.unique(part.row, return_inverse=True)
    without = int((used < 0).any())
    rows: list[Row] = [part.rows[number] for number in used.tolist() if number >= 0]
    return Strongest(part.values, (row.reshape(part.row.shape) - without).astype(np.int32), part.position, rows)


def _of_token(part: Strongest, number: int) -> Strongest:
    one = slice(number, number + 1)
    return Strongest(part.values[one], part.row[one], part.position[one], part.rows)


def _ranks(one: Strongest, sign: int) -> list[int]:
    return [int(rank) for rank in np.flatnonzero(one.row[0, sign] >= 0)]


def _entry(
    opened: Opened, one: Strongest, errors: np.ndarray, sign: int, rank: int, tokenizer: Tokenizer | None
) -> dict[str, Any]:
    observable, sequence = one.rows[int(one.row[0, sign, rank])]
    position = int(one.position[0, sign, rank])
    place = Place(opened.subject.observables.index(observable), sequence, position)
    texts, first = _texts(opened, observable, sequence, position, tokenizer)
    numbers = {"value": one.values[0, sign, rank], "error": errors[0, sign, rank]}
    return in_text(opened, place, texts, first) | {key: _finite(float(each)) for key, each in numbers.items()}


def _texts(
    opened: Opened, observable: str, sequence: int, position: int, tokenizer: Tokenizer | None
) -> tuple[list[str], int]:
    """Return the text of the tokens around a position, and the number of the first of them."""
    ids = token_ids(opened.subject.run, observable, [sequence])
    first = max(0, position - _BEFORE)
    if ids is None:
        return [f" {n}" for n in range(first, position + 1 + _AFTER)], first
    earlier = min(CONTEXT, first)
    shown = ids[0, first - earlier : position + 1 + _AFTER].tolist()
    return pieces(shown, tokenizer)[earlier:], first


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
