"""The list of the runs of a store: what tells them apart, how far each is, and, computed afterwards, what each says."""

from __future__ import annotations

from importlib import metadata
from urllib.parse import urlencode

from devinterp_view.budget import MAX_ROWS, first
from devinterp_view.html import page
from devinterp_view.server.opened import Library
from devinterp_view.server.run_page import MARK, RUNS
from devinterp_view.study import label_cell
from devinterp_view.text import name

#: Columns of what tells runs apart.
_MAX_LABELS = 12


def run_list(library: Library) -> str:
    """Return the page of all runs."""
    table = library.table()
    paths, left_out = first(list(table.runs), MAX_ROWS, "runs")
    labels, more = first(
        list(dict.fromkeys(label for of in table.runs.values() for label in of)), _MAX_LABELS, "labels of each"
    )
    states = {path: library.state(path) for path in paths}
    rows = [
        {
            "name": name(path),
            "href": f"run?{urlencode({'run': path})}" if states[path]["has_begun"] else "",
            "labels": [label_cell(table.runs[path].get(label)) for label in labels],
            "state": states[path]["state"],
            "steps": states[path]["steps"],
            "remark": name(table.failed.get(path, ""), 400),
        }
        for path in paths
    ]
    unusable = f"{table.left_out:,} runs have names that cannot be shown." if table.left_out else ""
    values = {
        "mark": MARK,
        "title": f"{len(table.runs):,} runs",
        "source": name(library.name, 400),
        "version": metadata.version("devinterp"),
        "labels": [name(label) for label in labels],
        "rows": rows,
        "notes": [each for each in (left_out, more, unusable) if each],
    }
    data = {"runs": [{"path": path, **states[path]} for path in paths]}
    return page("runs.html.j2", values, data, RUNS, connects=True)
