"""A run as one HTML file that opens anywhere: ``devinterp report STORE -o report.html``.

`report` puts a page together from its sections: `facts` (verdict, settings, provenance), `traces` with their `chart`,
`coefficients`, `passages` with the `layers` by which they are coloured, and `influences`. All of them read one `subject`;
`budget` bounds them; `text` makes whatever a store says harmless; `page/` has the template, style and script, `palette` the
colours, and `html` fills them in. Every number comes from an analysis of ``tree.slt``.
"""

from __future__ import annotations

from devinterp.hookspecs import hookimpl
from devinterp.types import Command

__all__ = ["devinterp_commands"]


@hookimpl
def devinterp_commands() -> list[Command]:
    """Return the command of this distribution."""
    return [
        Command(
            name="report",
            function="devinterp_view.command:report",
            summary="Write what a run says as one HTML file: verdict, traces, coefficients, coloured tokens.",
        )
    ]
