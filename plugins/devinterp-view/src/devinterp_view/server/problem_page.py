"""The page that says why another one cannot be shown."""

from __future__ import annotations

from importlib import metadata

from devinterp_view.html import page
from devinterp_view.server.run_page import MARK, RUNS
from devinterp_view.text import name


def problem_page(text: str, source: str) -> str:
    """Return a page with one message."""
    values = {
        "mark": MARK,
        "title": "This cannot be shown",
        "text": text,
        "source": name(source, 400),
        "version": metadata.version("devinterp"),
    }
    return page("problem.html.j2", values, {"runs": []}, RUNS, connects=True)
