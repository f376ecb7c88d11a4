"""The page of one run: a page of its tokens, and places for what is computed after it is there."""

from __future__ import annotations

import math
from importlib import metadata
from typing import Any

from devinterp.token_text import Tokenizer
from devinterp_view import sections
from devinterp_view.budget import MAX_ROWS, attempt, first
from devinterp_view.coefficients import coefficients
from devinterp_view.html import page, section
from devinterp_view.layers import layer_label
from devinterp_view.passages import Passage
from devinterp_view.server.cache import Cache
from devinterp_view.server.opened import ITSELF, Opened, state_of
from devinterp_view.server.places import paging_of, passages_of
from devinterp_view.subject import Subject
from devinterp_view.text import name

#: Scripts of the pages of runs, and of the list of runs.
RUN = ("common.js", "stream.js", "remote.js", "tokens.js", "view.js")
RUNS = ("common.js", "stream.js", "runs.js")
#: The first line of every page.
MARK = "<!doctype html>"
#: What is computed after the page is there.
PARTS = ("traces", "coefficients", "summary")


def run_page(
    opened: Opened,
    observable: int,
    number: int,
    restriction: int | None,
    *,
    tokenizer: Tokenizer | None,
    source: str,
    text_note: str,
) -> str:
    """Return the page of a run.

    Parameters
    ----------
    opened : Opened
        The run.
    observable, number : int
        Which page of which observable.
    restriction : int or None
        Number of the weight restriction of influences; None for the usual one.
    tokenizer : Tokenizer, optional
        Decodes token ids.
    source : str
        Where the store is.
    text_note : str
        What is to be known of the text of tokens.

    Raises
    ------
    InvalidInputError
        If there is no such page or restriction.
    """
    subject = opened.subject
    names, restrictions = subject.observables, subject.restrictions
    chosen = restriction_of(subject, restriction)
    shown: list[Passage] = passages_of(subject, observable, number, tokenizer) if names else []
    labelled, left_out = first(restrictions, MAX_ROWS, "restrictions")
    kinds = ("llc", "susceptibility") if len(restrictions) > 1 else ("llc",)
    layers = [(kind, n) for kind in kinds for n in range(len(labelled))] if shown else []
    labels = [layer_label(kind, restrictions[n]) for kind, n in layers]
    place = {
        "observable": observable,
        "page": number,
        "num_pages": paging_of(subject, observable).num_pages if names else 0,
        "restriction": chosen,
    }
    values = place | sections.settings(subject) | sections.tokens(shown, [], labels) | _about(opened, source)
    notes = [f"Colours: {left_out}" if left_out else "", text_note, "" if names else "This run has no observables."]
    values |= {
        "observables": [name(each) for each in names],
        "restrictions": [name(each) for each in labelled],
        "influence_restriction": name(restrictions[chosen]) if names else "",
        "passage_notes": [name(note, 600) for note in notes if note],
    }
    data = {
        "server": place | {"run": opened.path, "stamp": opened.stamp, "parts": list(PARTS)},
        "passages": sections.passage_data(subject, shown),
        "layers": [
            {"kind": kind, "restriction": n, "label": " · ".join(label)}
            for (kind, n), label in zip(layers, labels, strict=True)
        ],
        "influence": {"restriction": name(restrictions[chosen])} if names else None,
    }
    return page("run.html.j2", values, data, RUN, connects=True)


def _about(opened: Opened, source: str) -> dict[str, Any]:
    """Return what the head and the foot of the page say."""
    return {
        "mark": MARK,
        "source": name(source, 400),
        "run": "" if opened.path == ITSELF else name(opened.path),
        "version": metadata.version("devinterp"),
        "state": state_of(opened.subject.run),
        "caveat": name(opened.subject.caveat, 600),
    }


def restriction_of(subject: Subject, number: int | None) -> int:
    """Return the number of a weight restriction: the one that is given, or that of ``"full"``, or 0.

    Raises
    ------
    InvalidInputError
        If there is none of this number.
    """
    names = subject.restrictions
    return names.index(
        subject.restriction_of_influences(None) if number is None else subject.restriction_number(number)
    )


def part(opened: Opened, which: str, sampling_task: str | None, cache: Cache) -> dict[str, Any]:
    """Return a part of the page of a run as HTML, and what the head of the page says of it.

    Parameters
    ----------
    opened : Opened
        The run.
    which : {"traces", "coefficients", "summary"}
        Which part.
    sampling_task : str or None
        The observable made of the data that the run was sampled on.
    cache : Cache
        Keeps the summary, whose verdict stands beside coefficients too.
    """
    if which == "traces":
        return {"html": section("traces", sections.traces(opened.subject))}
    summary = _summary(opened, cache)
    verdict = summary["verdict"]
    if which == "summary":
        return {"html": section("summary", summary), "verdict": "not judged" if verdict is None else verdict.verdict}
    values = sections.tables(opened.subject, sampling_task, verdict)
    html = section("coefficients", values) + (section("restrictions", values) if values["restrictions"] else "")
    return {"html": html, "headline": values["headline"]}


def _summary(opened: Opened, cache: Cache) -> dict[str, Any]:
    key = ("summary", opened.path, opened.stamp)
    kept: dict[str, Any] | None = cache.get(key)
    if kept is None:
        kept = sections.summary(opened.subject)
        cache.put(key, kept, len(str(kept)))
    return kept


def brief(opened: Opened, cache: Cache) -> dict[str, Any]:
    """Return what the list of runs says of a run: its verdict, and its most precise coefficient."""
    verdict = _summary(opened, cache)["verdict"]
    word = "not judged" if verdict is None else verdict.verdict
    table, reason = attempt(lambda: coefficients(opened.subject))
    if table is None:
        return {"verdict": word, "text": name(reason, 200), "value": None}
    value = float(table["mean"].isel(restriction=0, estimate=0))
    return {"verdict": word, "text": sections.headline(table), "value": value if math.isfinite(value) else None}
