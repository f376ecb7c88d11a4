"""From token ids to the piece of text that each token adds."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

#: Tokens of context that are decoded along with each: enough for byte-level pieces and for spaces that depend on neighbours.
CONTEXT = 8
UNDECODABLE = "\ufffd"
#: Signs for what cannot be seen.
NEWLINE, TAB, BYTE = "⏎", "→", "·"


@runtime_checkable
class Tokenizer(Protocol):
    """Anything with a ``decode`` like that of HuggingFace's tokenizers."""

    def decode(self, token_ids: list[int], /) -> str:
        """Return the text of token ids."""
        ...


def pieces(token_ids: Sequence[int], tokenizer: Tokenizer | None) -> list[str]:
    """Return the text that each token adds to those before it.

    A token that ends inside a character of several bytes adds nothing; the one that completes it adds the character.

    Parameters
    ----------
    token_ids : sequence of int
        Token ids of one sequence.
    tokenizer : Tokenizer, optional
        Without one the ids themselves are the text.

    Returns
    -------
    list of str
        One for each token.
    """
    ids = list(token_ids)
    if tokenizer is None:
        return [f" {token}" for token in ids]
    texts = []
    for i in range(len(ids)):
        start = max(0, i - CONTEXT)
        before, after = tokenizer.decode(ids[start:i]) if i > start else "", tokenizer.decode(ids[start : i + 1])
        complete = before.rstrip(UNDECODABLE)
        texts.append("" if after.endswith(UNDECODABLE) else after[len(complete) :])
    return texts


def visible(text: str) -> str:
    """Return text in which every character can be seen: line ends, tabs, control characters, and bytes that are no text."""
    if not text:
        return BYTE
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\n", NEWLINE).replace("\t", TAB)
    return "".join(BYTE if unicodedata.category(c) in ("Cc", "Cf", "Cs") else c for c in text)
