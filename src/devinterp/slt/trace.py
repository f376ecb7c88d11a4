"""Names of DevInterp 1 that have no counterpart."""

from __future__ import annotations

from typing import Any

from devinterp.errors import InvalidInputError


class OnlineTraceStatistics:
    """Refuses: traces are arrays of ``get_results()``, of which numpy gives any statistics."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise InvalidInputError(
            "`OnlineTraceStatistics` is not available: take the trace of a callback's `get_results()`, and its "
            "statistics over chains "
            "with numpy."
        )
