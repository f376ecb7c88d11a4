"""Numbers of tokens that are computed when they are asked for: layers of a page, and what moves with a token in all data."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from devinterp.errors import InvalidInputError
from devinterp.schema import CHAIN
from devinterp.token_text import Tokenizer
from devinterp_view.budget import Limits
from devinterp_view.html import packed
from devinterp_view.layers import layers_of
from devinterp_view.passages import Passage
from devinterp_view.server.cache import Cache
from devinterp_view.server.opened import Opened
from devinterp_view.server.places import Place, in_text, text_around, untold
from devinterp_view.strongest import Row, Strongest, strongest, strongest_errors, within

#: Tokens of one sequence whose strongest candidates are looked for at the same time: reading the data takes longer than
#: comparing so many, and the next token that somebody clicks is mostly one of them.
BLOCK = 128


def layer(opened: Opened, passages: list[Passage], kind: str, restriction: str, task: str | None) -> dict[str, Any]:
    """Return the numbers of one layer of the tokens of a page."""
    if kind not in ("llc", "susceptibility"):
        raise InvalidInputError(f"`kind` (={kind!r:.80}) must be 'llc' or 'susceptibility'.")
    [made] = layers_of(opened.subject, passages, kind, [restriction], task)
    return made.numbers()


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
    query = untold(observable, place.sequence, slice(place.token, place.token + 1), total)
    value, error = within(run, query, passage, options, has_errors=has_errors)
    start = place.token // BLOCK * BLOCK
    block = untold(observable, place.sequence, slice(start, min(start + BLOCK, total)), total)
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
    texts, first = text_around(opened, observable, sequence, position, tokenizer)
    numbers = {"value": one.values[0, sign, rank], "error": errors[0, sign, rank]}
    return in_text(opened, place, texts, first) | {key: _finite(float(each)) for key, each in numbers.items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
