"""A run as one HTML file that opens anywhere, ``devinterp report``, and as pages that compute on demand, ``devinterp view``.

`report` puts a page together from `sections`: `facts` (verdict, settings, provenance), `traces` with their `chart`,
`coefficients`, `passages` with the `layers` by which they are coloured, and `influences`, whose numbers are those of
`strongest`. All of them read one `subject`; `budget` bounds them; `text` makes whatever a store says harmless; `page/` has the
templates, style and scripts, `palette` the colours, and `html` fills them in. `server/` shows the same sections over HTTP,
`explorer` with its `notebook` the same page in a notebook. Every number comes from an analysis of ``tree.slt``.
"""

from __future__ import annotations

from devinterp.hookspecs import hookimpl
from devinterp.types import Analysis, Command
from devinterp_view.explorer import view as _view

__all__ = ["devinterp_analyses", "devinterp_commands"]


@hookimpl
def devinterp_analyses() -> list[Analysis]:
    """Return the explorer for notebooks."""
    return [Analysis(name="view", compute=_view, requires=("trace/init_loss",), of_study=True, has_command=False)]


@hookimpl
def devinterp_commands() -> list[Command]:
    """Return the commands of this distribution."""
    return [
        Command(
            name="report",
            function="devinterp_view.command:report",
            summary="Write what a run says as one HTML file: verdict, traces, coefficients, coloured tokens.",
        ),
        Command(
            name="view",
            function="devinterp_view.view:view",
            summary="Show a store in the browser: every sequence, what moves with any token in all data, every run.",
        ),
    ]
