"""Whatever texts and names a store holds, a report runs none of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devinterp.analyses.common.pictures import colour_limit
from devinterp_view import palette
from devinterp_view.report import render
from devinterp_view.text import MAX_NAME, MAX_TOKEN, embedded, name, number, token
from devinterp_view.traces import thinned
from support.hostile_texts import CORPUS, Hostile, hostile_tree
from support.report_page import Page

#: Everything the template writes.
TAGS = {
    "html", "head", "meta", "title", "style", "body", "a", "header", "div", "h1", "p", "span",
    "button", "nav", "main", "section", "h2", "h3", "ul", "li", "strong", "br", "details", "summary",
    "table", "thead", "tbody", "tr", "th", "td", "figure", "svg", "rect", "text", "line", "path",
    "circle", "figcaption", "b", "label", "input", "select", "optgroup", "option", "article", "aside", "noscript", "footer",
    "script",
}  # fmt: skip


def test_nothing_of_a_store_becomes_part_of_the_page():
    html = render(hostile_tree(), tokenizer=Hostile(), source=CORPUS[1], text_note=CORPUS[5])
    assert html.encode("utf-8")
    page = Page(html)
    assert {tag for tag, _ in page.tags} <= TAGS
    assert [tag for tag, _ in page.tags].count("script") == 2
    for tag, attrs in page.tags:
        assert not [key for key in attrs if key.startswith("on") or key in ("src", "style")], (tag, attrs)
        assert (attrs.get("href") or "#").startswith("#")
    assert [attrs for tag, attrs in page.tags if tag == "meta" and attrs.get("http-equiv")] == [
        {
            "http-equiv": "Content-Security-Policy",
            "content": next(a["content"] for t, a in page.tags if "http-equiv" in a),
        }
    ]
    policy = next(attrs["content"] for _, attrs in page.tags if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not [c for c in html if ord(c) < 32 and c not in "\n\t"]
    for sign in ("\u202e", "\u2028", "\u2029", "\ufeff", "\ud800", "\uffff", "\x85"):
        assert sign not in html
    # What can be read stays readable.
    for text in ("שלום עולם", "مرحبا بالعالم", "नमस्ते", "日本語テキスト", "👩‍👩‍👧‍👦", "{{7*7}}"):
        assert text in page.texts["tokens"]
        assert name(text) in page.texts["settings"]
    assert len(html) < 8 * 2**20


@given(st.text())
def test_embedded_data_cannot_end_its_element(text):
    written = embedded({text: [text]})
    assert not set("<>&'\u2028\u2029") & set(written)
    assert json.loads(written) == {text: [text]}


def test_what_is_no_json_is_refused():
    with pytest.raises(ValueError, match="Out of range"):
        embedded(float("nan"))


@given(st.text(st.characters(), max_size=300))
def test_names_and_tokens_are_visible_and_bounded(text):
    for shown, most in ((name(text), MAX_NAME + 1), (token(text), 2 * MAX_TOKEN + 1)):
        assert len(shown) <= most
        assert not [c for c in shown if (ord(c) < 32 and c not in "\n\t") or c in "\u202e\u2066\x7f"]
        shown.encode("utf-8")
    assert token(text)


def test_numbers_go_to_the_second_digit_of_their_error():
    nan = float("nan")
    for value, error, text in (
        (12.3456, 0.0123, "12.346 ± 0.012"), (12.3, nan, "12.3"), (nan, 1.0, "–"), (1234.5, 120.0, "1230 ± 120"),
        (-0.5, 0.1, "-0.50 ± 0.10"), (1e-9, 1e-10, "1e-09 ± 1e-10"), (3.0, 0.0, "3 ± 0"), (0.096, 0.0999, "0.096 ± 0.100"),
    ):  # fmt: skip
        assert number(value, error) == text


@given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), max_size=400), st.integers(4, 60))
def test_thinned_curves_keep_their_extremes_and_ends(values, num_points):
    array = np.array(values, dtype=float)
    steps, kept = thinned(array, num_points)
    finite = np.flatnonzero(np.isfinite(array))
    assert len(steps) <= num_points
    np.testing.assert_array_equal(array[steps], kept)
    if len(finite):
        assert kept.max() == np.nanmax(array)
        assert kept.min() == np.nanmin(array)
        assert (steps[0], steps[-1]) == (finite[0], finite[-1])


def test_text_can_be_read_on_every_colour():
    for ends, ink in ((palette.LIGHT, palette.LIGHT_TEXT), (palette.DARK, palette.DARK_TEXT)):
        shades = palette.colours(ends)
        assert len(set(shades)) == palette.NUM_COLOURS
        assert min(palette.contrast(shade, ink) for shade in shades) >= 4.5
    assert palette.contrast("#000000", "#ffffff") == pytest.approx(21)


def test_colours_follow_numbers():
    values = np.array([np.nan, -9.0, -1.0, -0.04, 0.0, 0.5, 1.0, 9.0])
    assert palette.bins(values, 1.0).tolist() == [-1, 0, 0, 10, 10, 15, 20, 20]
    assert colour_limit(np.array([np.nan])) == colour_limit(np.zeros(3)) == 1.0
