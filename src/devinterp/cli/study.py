"""``devinterp study``: a study from a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from devinterp.errors import InvalidInputError
from devinterp.studies import StudyCost
from devinterp.studies import study as make_study
from devinterp.studies.plan_file import read_plan


def study(
    plan: Annotated[Path, Parameter(help="A TOML file: models, data, what varies, and settings (docs/studies.md).")],
    /,
    *,
    output_path: Annotated[
        Path | None,
        Parameter(name=["--output-path", "-o"], help="Where the store is written, if not where the plan says."),
    ] = None,
    workers: Annotated[int | None, Parameter(help="Processes to sample in.")] = None,
    dry_run: Annotated[bool, Parameter(help="Only say what all runs would cost.", negative="")] = False,
    repair: Annotated[
        bool, Parameter(help="Check the store first and sample again what is damaged.", negative="")
    ] = False,
    progress: Annotated[bool | None, Parameter(help="Whether to show progress.")] = None,
) -> None:
    """Sample every run of a plan into one store.

    The same command goes on where it stopped; a plan that has grown by further checkpoints, seeds, draws or chains adds these.
    """
    console = Console()
    with console.status("reading the plan and its data"):
        arguments = read_plan(plan)
    given: dict[str, Any] = {"workers": workers, "progress": progress, "repair": repair, "dry_run": dry_run}
    chosen = output_path or arguments["output_path"]
    if chosen is None and not dry_run:
        raise InvalidInputError("a plan needs `output_path`, or the command `--output-path`.")
    result = make_study(
        **{**arguments, **{name: value for name, value in given.items() if value}, "output_path": chosen}
    )
    if isinstance(result, StudyCost):
        console.print(result)
        return
    console.print(f"Wrote {chosen}. Go on with:", highlight=False, soft_wrap=True)
    console.print(f"  devinterp info {chosen}\n  devinterp llc {chosen}", highlight=False, soft_wrap=True)
