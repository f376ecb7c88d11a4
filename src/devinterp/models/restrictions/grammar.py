"""The grammar of weight restrictions, and the parser of texts into terms; no model is needed.

::

    restriction = term (("+" | " - ") term)*            union, difference; left to right
    term        = "full" | "trainable" | "lora" | "embed" | "unembed" | "other"
                | parameter, module or glob | [stack] layers [piece]
    layers      = "l" set                               l0, l0-3, l0,2,5, l*
    piece       = ["self" | "cross"] ("h" | "g") set [part]      heads, or heads by key/value head
                | "attn" | "self" | "cross" | "mlp" | "norm" | "router" | "shared" | "experts"
                | "e" set                               experts
                | "mlp" "n" set                         hidden neurons
    part        = "q" | "k" | "v" | "o" | "gate" | "rest"
    set         = "*" | item ("," item)*;  item = number | number "-" number
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from devinterp.errors import InvalidInputError

MODEL_WORDS = ("full", "trainable", "lora", "embed", "unembed", "other")
LAYER_WORDS = ("attn", "self", "cross", "mlp", "norm", "router", "shared", "experts")
PART_WORDS = ("q", "k", "v", "o", "gate", "rest")
SETS = {"h": "head", "g": "group", "e": "expert", "n": "neuron"}

_SET = r"(?:\*|\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)"
_LAYERS = re.compile(rf"l({_SET})")
_COUNTED = re.compile(rf"([hgen])({_SET})")
_WORD = re.compile(r"[A-Za-z_]+")


@dataclass(frozen=True)
class Numbers:
    """A set of indices: first and last of each range, or None for all."""

    ranges: tuple[tuple[int, int], ...] | None


@dataclass(frozen=True)
class Span:
    """A slice of a restriction's text, for errors that point at it."""

    source: str
    start: int
    end: int

    @property
    def text(self) -> str:
        """The slice itself."""
        return self.source[self.start : self.end]

    def error(self, message: str) -> InvalidInputError:
        """Return an error that shows the restriction and points at the slice."""
        pointer = " " * self.start + "^" * max(self.end - self.start, 1)
        return InvalidInputError(f"{message}\n  {self.source}\n  {pointer}")


@dataclass(frozen=True)
class Term:
    """One term of a restriction.

    Parameters
    ----------
    span : Span
        The term in the text.
    subtract : bool
        Whether it is subtracted from the terms before it.
    name : str
        One of `MODEL_WORDS`, or a parameter, module or glob; empty for layers.
    stack : str
        Name of the stack of layers; empty for the one that predicts tokens.
    layers : Numbers or None
        Indices of the layers.
    words : tuple of str
        At most one of `LAYER_WORDS`.
    counted : (str, Numbers) or None
        One of the letters of `SETS`, and the indices.
    part : str
        One of `PART_WORDS`, or empty.
    """

    span: Span
    subtract: bool = False
    name: str = ""
    stack: str = ""
    layers: Numbers | None = None
    words: tuple[str, ...] = ()
    counted: tuple[str, Numbers] | None = None
    part: str = ""


def parse(restriction: str) -> list[Term]:
    """Return the terms of a restriction.

    Raises
    ------
    InvalidInputError
        It does not follow the grammar; the message points at the first piece that does not.
    """
    pieces = [Span(restriction, m.start(), m.end()) for m in re.finditer(r"[^\s+]+|\+", restriction)]
    terms: list[Term] = []
    group: list[Span] = []
    subtract = False
    for piece in [*pieces, None]:
        if piece is not None and piece.text not in ("+", "-"):
            group.append(piece)
            continue
        if not group:
            place = piece or Span(restriction, len(restriction), len(restriction))
            raise place.error("a restriction needs a term here, such as 'l0', 'l0h1', 'l0 mlp', 'embed' or 'full'.")
        terms.append(_term(group, subtract))
        group, subtract = [], piece is not None and piece.text == "-"
    return terms


def _term(pieces: list[Span], subtract: bool) -> Term:
    whole = Span(pieces[0].source, pieces[0].start, pieces[-1].end)
    first = pieces[0]
    if first.text in MODEL_WORDS:
        if len(pieces) > 1:
            raise pieces[1].error(f"nothing can follow {first.text!r}.")
        return Term(whole, subtract, name=first.text)
    if _looks_like_layers(first.text):
        return _layers(whole, subtract, "", pieces)
    if len(pieces) > 1 and _looks_like_layers(pieces[1].text) and _WORD.fullmatch(first.text):
        return _layers(whole, subtract, first.text, pieces[1:])
    if len(pieces) > 1:
        raise pieces[1].error(f"nothing can follow {first.text!r}, which is not a layer such as 'l0'.")
    return Term(whole, subtract, name=first.text)


def _looks_like_layers(text: str) -> bool:
    return re.match(r"l(\d|\*($|[hgen\d]))", text) is not None and "." not in text


def _layers(whole: Span, subtract: bool, stack: str, pieces: list[Span]) -> Term:
    tokens = [token for piece in pieces for token in _tokens(piece)]
    layers = _LAYERS.fullmatch(tokens[0].text)
    if layers is None:
        raise tokens[0].error("layers are written l0, l0-3, l0,2,5 or l*.")
    words: list[str] = []
    counted: tuple[str, Numbers] | None = None
    part = ""
    for token in tokens[1:]:
        numbers = _COUNTED.fullmatch(token.text)
        if part:
            raise token.error(f"nothing can follow the part {part!r} of a head.")
        if numbers is not None and counted is None:
            counted = numbers[1], _numbers(token, numbers[2])
        elif token.text in PART_WORDS and counted is not None and counted[0] in "hg":
            part = token.text
        elif token.text in LAYER_WORDS and counted is None and not words:
            words.append(token.text)
        else:
            raise token.error(_expected(token.text, words, counted))
    _check_words(whole, words, counted)
    return Term(whole, subtract, "", stack, _numbers(tokens[0], layers[1]), tuple(words), counted, part)


def _tokens(piece: Span) -> list[Span]:
    """Return the tokens of a piece: ``l0``, ``h1`` and ``q`` of ``l0h1q``."""
    tokens, start = [], 0
    pattern = re.compile(rf"[lhgen]{_SET}|[A-Za-z_]+")
    while start < len(piece.text):
        match = pattern.match(piece.text, start)
        if match is None:
            span = Span(piece.source, piece.start + start, piece.end)
            raise span.error("numbers are written 0, 0-3, 0,2,5 or *.")
        tokens.append(Span(piece.source, piece.start + match.start(), piece.start + match.end()))
        start = match.end()
    return tokens


def _numbers(span: Span, text: str) -> Numbers:
    if text == "*":
        return Numbers(None)
    ranges = []
    for item in text.split(","):
        first, _, last = item.partition("-")
        ranges.append((int(first), int(last or first)))
        if ranges[-1][0] > ranges[-1][1]:
            raise span.error(f"the range {item} is empty: write the smaller number first.")
    return Numbers(tuple(ranges))


def _expected(text: str, words: list[str], counted: tuple[str, Numbers] | None) -> str:
    if _LAYERS.fullmatch(text):
        return f"{text!r} begins another term: combine terms by '+', for example 'l0h1 + l1h2', or pass a list."
    if counted is not None and counted[0] in "hg":
        return f"{text!r} is no part of a head: expected one of {', '.join(PART_WORDS)}.{_close(text, PART_WORDS)}"
    if counted is not None or words:
        return f"{text!r} cannot stand here: combine terms by '+', for example 'l0 attn + l0 mlp'."
    return (
        f"{text!r} is no part of a layer: expected one of {', '.join(LAYER_WORDS)}, heads h0, groups g0, experts e0 or "
        f"neurons 'mlp n0-63'.{_close(text, LAYER_WORDS)}"
    )


def _close(text: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(text, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _check_words(whole: Span, words: list[str], counted: tuple[str, Numbers] | None) -> None:
    if counted is None or not words:
        return
    allowed = {"h": ("self", "cross", "attn"), "g": ("self", "cross", "attn"), "e": ("mlp", "experts"), "n": ("mlp",)}
    if words[0] not in allowed[counted[0]]:
        raise whole.error(f"{SETS[counted[0]]}s are no part of {words[0]!r}.")
