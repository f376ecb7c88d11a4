"""Text that a store holds, made harmless and visible; and numbers with their errors as text."""

from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

#: Characters of a name, and of the text of a token, beyond which it is cut.
MAX_NAME, MAX_TOKEN = 200, 120
#: Joiners: without them scripts of India and Persia, and many emoji, cannot be read.
_JOINERS = "\u200c\u200d"
_SIGNS = {"\n": "⏎\n", "\t": "→\t", " ": " "}


def name(text: object, limit: int = MAX_NAME) -> str:
    """Return any text on one line, with the number of what cannot be seen, such as ``<U+202E>``, in its place.

    Control characters, marks that turn the direction of text around, and halves of characters would change what stands beside
    them, or the file.
    """
    return _cut("".join(c if not _is_hidden(c) else f"<U+{ord(c):04X}>" for c in _bounded(str(text), limit)), limit)


def token(text: str) -> str:
    """Return the text of a token with signs for line ends and tabs, and a dot for what cannot be seen."""
    if not text:
        return "·"
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    shown = _cut(_bounded(text, MAX_TOKEN), MAX_TOKEN)
    return "".join(_SIGNS.get(c, "·" if _is_hidden(c) else c) for c in shown)


def _bounded(text: str, limit: int) -> str:
    """Return no more of a text than is needed to see that it is too long."""
    return text[: limit + 1]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + "…"


def _is_hidden(character: str) -> bool:
    category = unicodedata.category(character)
    is_no_character = ord(character) & 0xFFFE == 0xFFFE or 0xFDD0 <= ord(character) <= 0xFDEF
    return is_no_character or category in ("Cc", "Cs", "Zl", "Zp") or (category == "Cf" and character not in _JOINERS)


def embedded(value: Any) -> str:
    """Return JSON that can stand inside a ``<script>`` element: nothing in it can end the element or begin a comment.

    Raises
    ------
    ValueError
        If a number is not finite: JSON has no word for it.
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&'":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def number(value: float, error: float = math.nan) -> str:
    """Return a number as text, with its standard error where there is one, both to the error's second digit."""
    if not math.isfinite(value):
        return "–"
    if not math.isfinite(error):
        return f"{value:.4g}"
    if error <= 0:
        return f"{value:.4g} ± 0"
    digits = 1 - math.floor(math.log10(error))
    if -4 <= digits <= 6:
        places = max(0, digits)
        return f"{round(value, digits):.{places}f} ± {round(error, digits):.{places}f}"
    return f"{value:.4g} ± {error:.2g}"
