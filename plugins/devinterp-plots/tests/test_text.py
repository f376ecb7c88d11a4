"""Where the text of tokens lands on the page."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from devinterp.token_text import CONTEXT, NEWLINE, pieces, visible
from devinterp_plots.text import lay_out


class ByteTokenizer:
    """Token id = byte."""

    def decode(self, token_ids):
        return bytes(token_ids).decode("utf-8", errors="replace")


class WordTokenizer:
    """Like sentencepiece: the space before a word is dropped at the start of what is decoded."""

    def decode(self, token_ids):
        return "".join(f" w{i}" for i in token_ids).lstrip()


# U+FFFD itself is what incomplete bytes decode to, so it cannot be told from them.
@given(st.text(st.characters(exclude_characters="\ufffd", exclude_categories=["Cs"]), max_size=60))
def test_pieces_of_bytes_join_to_the_text(text):
    ids = list(text.encode())
    texts = pieces(ids, ByteTokenizer())
    assert len(texts) == len(ids)
    assert "".join(texts) == text


def test_pieces_keep_the_spaces_between_words():
    texts = pieces(list(range(3 * CONTEXT)), WordTokenizer())
    assert texts[0] == "w0"
    assert texts[1:] == [f" w{i}" for i in range(1, 3 * CONTEXT)]


TEXTS = st.lists(st.text(st.sampled_from("ab \n\t日e\u0301_"), max_size=14), min_size=1, max_size=40)


@given(TEXTS, st.integers(2, 20))
def test_every_character_is_placed_once_in_order_inside_the_page(texts, columns):
    cells = lay_out(texts, columns)
    for token, text in enumerate(texts):
        assert "".join(cell.text for cell in cells if cell.token == token) == visible(text)
    assert [cell.token for cell in cells] == sorted(cell.token for cell in cells)
    end = (0, 0)
    for cell in cells:
        assert (cell.line, cell.column) >= end, "cells overlap"
        assert cell.column + cell.width <= columns
        end = (cell.line, cell.column + cell.width)


@given(TEXTS, st.integers(2, 20))
def test_a_newline_ends_its_line(texts, columns):
    cells = lay_out(texts, columns)
    for before, after in itertools.pairwise(cells):
        if before.text.endswith(NEWLINE):
            assert (after.line, after.column) == (before.line + 1, 0)


def test_words_of_several_tokens_stay_together():
    cells = lay_out(["The", " learn", "ing", " coeff", "icient"], 14)
    assert [(cell.text, cell.line, cell.column) for cell in cells] == [
        ("The", 0, 0),
        (" learn", 0, 3),
        ("ing", 0, 9),
        (" coeff", 1, 0),
        ("icient", 1, 6),
    ]
