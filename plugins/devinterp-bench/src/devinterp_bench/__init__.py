"""Problems whose learning coefficients are known exactly, and how close every kernel comes: ``devinterp bench accuracy``.

`theory` has the coefficients, `problems` a model and data for each, `measure` samples them, `corrections` says what step size
and localization add, `tables` shows the outcome; `command` is what the user calls. Only this module is imported when
plugins are listed; the others import torch.
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
            name="bench",
            function="devinterp_bench.command:bench",
            summary="Measure how close each kernel comes to learning coefficients that are known.",
        )
    ]
