"""``devinterp bench accuracy``: every kernel on problems whose learning coefficients are known."""

from __future__ import annotations

import json
import math
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import Parameter
from rich.console import Console
from rich.progress import track

import devinterp
from devinterp import plugins
from devinterp.cli.options import pairs_of, value_of
from devinterp.errors import InvalidInputError
from devinterp_bench.measure import QUICK, Effort, Measurement, measure, summarise, to_json
from devinterp_bench.problems import suite
from devinterp_bench.tables import markdown, rich_tables
from devinterp_bench.verdicts import summarise_verdicts, trials, verdict_tables, verdicts_to_json


def bench(
    what: Annotated[
        Literal["accuracy", "verdicts"],
        Parameter(help="What to measure: kernels, or verdicts of `devinterp diagnose` on runs with random settings."),
    ],
    /,
    *,
    kernel: Annotated[
        tuple[str, ...],
        Parameter(help="Sampling methods; may be repeated. Default: all installed.", show_default=False),
    ] = (),
    problem: Annotated[
        tuple[str, ...],
        Parameter(help="Only problems whose name or family contains this; may be repeated.", show_default=False),
    ] = (),
    kernel_option: Annotated[
        tuple[str, ...],
        Parameter(
            help="Option of the sampling method, as name=value; may be repeated, and needs one --kernel.",
            show_default=False,
        ),
    ] = (),
    quick: Annotated[bool, Parameter(help="One seed and fewer steps.", negative=())] = False,
    seeds: Annotated[int | None, Parameter(help="Independent estimates of each. Default: 3, with --quick 1.")] = None,
    seed: Annotated[int, Parameter(help="Seeds the noise.")] = 0,
    runs: Annotated[int, Parameter(help="Of `verdicts`: how many runs.")] = 200,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="Write all measurements to this JSON.")
    ] = None,
    table: Annotated[Path | None, Parameter(help="Write the tables to this Markdown file.")] = None,
) -> None:
    """Measure how close each kernel's learning coefficients come to known ones, or how often verdicts are right."""
    console = Console()
    if what == "verdicts":
        _judge(console, runs, seed, output, table)
        return
    effort = QUICK if quick else Effort()
    if seeds is not None:
        if seeds < 1:
            raise InvalidInputError(f"`--seeds` (={seeds}) must be at least 1.")
        effort = Effort(**{**asdict(effort), "num_seeds": seeds})
    if kernel_option and len(kernel) != 1:
        raise InvalidInputError(f"`--kernel-option` needs one `--kernel`; got {len(kernel)}.")
    options = {name: value_of(text) for name, text in pairs_of(kernel_option, "kernel-option").items()}
    kernels = [plugins.kernel(name).name for name in kernel] if kernel else list(plugins.kernels())
    chosen = [p for p in suite() if not problem or any(part in p.name or part in p.family for part in problem)]
    if not chosen:
        known = "\n  ".join(p.name for p in suite())
        raise InvalidInputError(f"`--problem` (={', '.join(problem)}) is in no name or family. Known:\n  {known}")
    pairs = [(name, each) for name in kernels for each in chosen]
    measurements: list[Measurement] = []
    for name, each in track(pairs, description=f"{len(kernels)} kernels, {len(chosen)} problems", console=console):
        measurements += measure(each, name, effort, options=options, seed=seed)
    for each_table in rich_tables(measurements):
        console.print(each_table)
    if output is not None:
        output.write_text(json.dumps(_report(measurements, effort, seed), indent=1) + "\n")
    if table is not None:
        table.write_text(markdown(measurements))


def _judge(console: Console, runs: int, seed: int, output: Path | None, table: Path | None) -> None:
    done = list(track(trials(runs, seed=seed), description=f"{runs} runs", total=runs, console=console))
    summary = summarise_verdicts(done)
    console.print(verdict_tables(summary), markup=False, highlight=False, soft_wrap=True)
    if output is not None:
        report = {"summary": asdict(summary), "trials": verdicts_to_json(done), "seed": seed}
        output.write_text(json.dumps(report, indent=1) + "\n")
    if table is not None:
        table.write_text(verdict_tables(summary))


def _report(measurements: list[Measurement], effort: Effort, seed: int) -> dict[str, Any]:
    summary = summarise(measurements)
    return {
        "measurements": to_json(measurements),
        "summary": {kernel: {k: _finite(v) for k, v in figures.items()} for kernel, figures in summary.items()},
        "effort": asdict(effort),
        "seed": seed,
        "versions": {
            "devinterp": devinterp.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
