"""From pieces of text to places on a page of fixed-width characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from devinterp.token_text import NEWLINE, visible


@dataclass(frozen=True, slots=True)
class Cell:
    """A piece of one token on the page: which token, its text, and where it starts, in characters and lines."""

    token: int
    text: str
    column: int
    line: int

    @property
    def width(self) -> int:
        """Return the width in characters."""
        return sum(map(character_width, self.text))


def character_width(character: str) -> int:
    """Return how many columns a character takes: 2 for the wide ones of East Asian scripts, 0 for accents, else 1."""
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def lay_out(texts: Sequence[str], columns: int) -> list[Cell]:
    """Place the text of tokens on lines of at most so many characters.

    Lines end after a newline, and else before a word (a token that starts with a space starts one); only what is longer
    than a whole line is cut inside a token.

    Parameters
    ----------
    texts : sequence of str
        Text of each token.
    columns : int
        Characters a line holds; at least 2.

    Returns
    -------
    list of Cell
        In reading order; a token that is cut has several.
    """
    cells: list[Cell] = []
    column = line = 0
    for word in _words([visible(text) for text in texts]):
        length = sum(sum(map(character_width, text)) for _, text in word)
        if column and column + length > columns:
            column, line = 0, line + 1
        for token, text in word:
            for part in _fit(text, columns, column):
                if column and column + sum(map(character_width, part)) > columns:
                    column, line = 0, line + 1
                cell = Cell(token, part, column, line)
                cells.append(cell)
                column += cell.width
                if part.endswith(NEWLINE):
                    column, line = 0, line + 1
    return cells


def _words(texts: Sequence[str]) -> list[list[tuple[int, str]]]:
    """Group tokens, with their index, into runs that should stay on one line."""
    words: list[list[tuple[int, str]]] = []
    for i, text in enumerate(texts):
        ended = not words or words[-1][-1][1].endswith(NEWLINE)
        if ended or text[0] == " ":
            words.append([])
        words[-1].append((i, text))
    return words


def _fit(text: str, columns: int, column: int) -> list[str]:
    """Cut text after each newline, and where it would not fit on a line of its own."""
    parts: list[str] = []
    for chunk in text.replace(NEWLINE, NEWLINE + "\0").split("\0"):
        room, part = columns - (column if not parts else 0), ""
        whole = sum(map(character_width, chunk)) <= columns
        for character in chunk:
            if not whole and part and sum(map(character_width, part + character)) > room:
                parts.append(part)
                room, part = columns, ""
            part += character
        if part:
            parts.append(part)
    return parts
