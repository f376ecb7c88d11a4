"""The language of weight restrictions, read into terms; nothing here knows a model.

::

    restriction = term (("+" | " - ") term)*            union, difference; left to right
    term        = "full" | "embed" | "unembed" | "other" | parameter, module or glob | [stack] layers [what]
    layers      = "l" set                               l0, l0-3, l0,2,5, l*
    what        = ["self" | "cross"] ("h" | "g") set [part]      heads, or heads by key/value head
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

MODEL_WORDS = ("full", "embed", "unembed", "other")
LAYER_WORDS = ("attn", "self", "cross", "mlp", "norm", "router", "shared", "experts")
PART_WORDS = ("q", "k", "v", "o", "gate", "rest")
SETS = {"h": "head", "g": "group", "e": "expert", "n": "neuron"}

_SET = r"(?:\*|\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)"
_LAYERS = re.compile(rf"l({_SET})")
_COUNTED = re.compile(rf"([hgen])({_SET})")
_WORD = re.compile(r"[A-Za-z_]+")


@dataclass(frozen=True)
class Numbers:
    """A set of indices: numbers, or all there are.

    Parameters
    ----------
    text : str
        As it was written.
    ranges : tuple of (int, int), or None
        First and last of each range; None for all.
    """

    text: str
    ranges: tuple[tuple[int, int], ...] | None


@dataclass(frozen=True)
class Span:
    """A piece of a restriction, for errors that point at it."""

    source: str
    start: int
    end: int

    @property
    def text(self) -> str:
        """The piece itself."""
        return self.source[self.start : self.end]

    def error(self, message: str) -> InvalidInputError:
        """Return an error that shows the restriction and points at the piece."""
        pointer = " " * self.start + "^" * max(self.end - self.start, 1)
        return InvalidInputError(f"{message}\n  {self.source}\n  {pointer}")


@dataclass(frozen=True)
class Term:
    """One term of a restriction.

    Parameters
    ----------
    span : Span
        Where it is written.
    subtract : bool
        Whether it is taken away from what stands before it.
    name : str
        A word for the whole model, or a parameter, module or glob; empty for layers.
    stack : str
        Which stack of layers; empty for the one that predicts tokens.
    layers : Numbers or None
        Which layers.
    words : tuple of str
        ``attn``, ``mlp`` ...
    counted : (str, Numbers) or None
        ``h``, ``g``, ``e`` or ``n``, and which.
    part : str
        Part of a head.
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
    """Read a restriction.

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
            where = piece or Span(restriction, len(restriction), len(restriction))
            raise where.error("a restriction needs a term here, such as 'l0', 'l0h1', 'l0 mlp', 'embed' or 'full'.")
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
    """Split ``l0h1q`` into ``l0``, ``h1``, ``q``."""
    tokens, at = [], 0
    pattern = re.compile(rf"[lhgen]{_SET}|[A-Za-z_]+")
    while at < len(piece.text):
        match = pattern.match(piece.text, at)
        if match is None:
            span = Span(piece.source, piece.start + at, piece.end)
            raise span.error("numbers are written 0, 0-3, 0,2,5 or *.")
        tokens.append(Span(piece.source, piece.start + match.start(), piece.start + match.end()))
        at = match.end()
    return tokens


def _numbers(span: Span, text: str) -> Numbers:
    if text == "*":
        return Numbers(text, None)
    ranges = []
    for item in text.split(","):
        first, _, last = item.partition("-")
        ranges.append((int(first), int(last or first)))
        if ranges[-1][0] > ranges[-1][1]:
            raise span.error(f"the range {item} is empty: write the smaller number first.")
    return Numbers(text, tuple(ranges))


def _expected(text: str, words: list[str], counted: tuple[str, Numbers] | None) -> str:
    if _LAYERS.fullmatch(text):
        return f"{text!r} begins another term: combine terms by '+', for example 'l0h1 + l1h2', or pass a list."
    if counted is not None and counted[0] in "hg":
        known: tuple[str, ...] = PART_WORDS
        return f"{text!r} is no part of a head: expected one of {', '.join(known)}.{_close(text, known)}"
    if counted is not None or words:
        return f"{text!r} cannot stand here: combine terms by '+', for example 'l0 attn + l0 mlp'."
    return (
        f"{text!r} is nothing of a layer: expected one of {', '.join(LAYER_WORDS)}, heads h0, groups g0, experts e0 or "
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
