"""Problems whose learning coefficients are known exactly, how close every kernel comes, and at what cost: ``devinterp bench``.

Accuracy: `theory` has the coefficients, `problems` and `superposition` a model and data for each, `suite` all of them;
`measure` samples them, `corrections` says what step size and localization add, `summary` what all of them together say,
`order` which pairs could have been swapped; `sensitivity` changes one setting at a time, `coverage` counts how often stated
errors hold. Efficiency: `efficiency` compares kernels at their best steps, on the targets of `known_targets` and
`language_models`. `sections` makes a `report` of each of these, `tables` and `efficiency_tables` show them; `command` is what
the user calls. Only this module is imported when plugins are listed; the others import torch.
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
            summary="Measure how close each kernel comes to known learning coefficients, and at what cost.",
        )
    ]
