"""Places at which the text of a run's sequences says something, found block by block."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any

import numpy as np

from devinterp.errors import InvalidInputError
from devinterp.token_text import Tokenizer, pieces
from devinterp_view.passages import token_ids
from devinterp_view.server.opened import Opened
from devinterp_view.server.places import Place, in_text

#: Places that are shown, and characters of what is looked for.
MAX_PLACES, MAX_WANTED = 200, 1000
#: Token ids that are read at a time.
_BLOCK_TOKENS = 2**15


def search(
    opened: Opened,
    wanted: str,
    tokenizer: Tokenizer | None,
    *,
    tell: Callable[[str, float], None],
    hand_out: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Look for text in all sequences of all observables, in any case.

    Parameters
    ----------
    opened : Opened
        The run.
    wanted : str
        The text, of 1 to 1,000 characters; it may run over several tokens.
    tokenizer : Tokenizer, optional
        Decodes token ids; without one the ids are the text.
    tell : callable
        ``tell(text, share)`` is told how far it is.
    hand_out : callable
        Is given each place as soon as it is known.

    Returns
    -------
    dict
        ``places``, how many there are, and ``note``, what was not looked at.

    Raises
    ------
    InvalidInputError
        If the text is empty or too long.
    """
    if not wanted.strip() or len(wanted) > MAX_WANTED:
        raise InvalidInputError(f"What is looked for must have 1 to {MAX_WANTED:,} characters.")
    subject, num_places = opened.subject, 0
    names = subject.observables
    total, done = sum(map(subject.num_sequences, names)), 0
    for number, observable in enumerate(names):
        count = subject.num_sequences(observable)
        width = subject.run[f"observables/{observable}"].sizes.get("token", 1)
        step = max(1, _BLOCK_TOKENS // max(1, width))
        for start in range(0, count, step):
            tell(f"{done:,} of {total:,} sequences", done / max(total, 1))
            block = range(start, min(start + step, count))
            ids = token_ids(subject.run, observable, block)
            if ids is None:
                break
            for sequence, row in zip(block, ids, strict=True):
                for place, texts in _places(row, wanted.lower(), tokenizer):
                    hand_out(in_text(opened, Place(number, sequence, place), texts, 0))
                    num_places += 1
                    if num_places == MAX_PLACES:
                        return {"places": num_places, "note": f"The first {MAX_PLACES} places are shown."}
            done += len(block)
    return {"places": num_places, "note": ""}


def _places(ids: np.ndarray, wanted: str, tokenizer: Tokenizer | None) -> list[tuple[int, list[str]]]:
    """Return the tokens of a sequence at which the text begins, each with the text of all tokens."""
    numbers = ids.tolist()
    # The text of a whole sequence is had at once; that of each token takes as many calls. Spaces may differ between them.
    if tokenizer is not None and _packed(wanted) not in _packed(tokenizer.decode(numbers).lower()):
        return []
    texts = pieces(numbers, tokenizer)
    ends: list[int] = []
    whole: list[str] = []
    places: list[tuple[int, list[str]]] = []
    length = start = 0
    for text in texts:
        lower = text.lower()
        length += len(lower)
        ends.append(length)
        whole.append(lower)
    joined = "".join(whole)
    while (at := joined.find(wanted, start)) >= 0 and len(places) < MAX_PLACES:
        places.append((bisect.bisect_right(ends, at), texts))
        start = at + 1
    return places


def _packed(text: str) -> str:
    return "".join(text.split())
