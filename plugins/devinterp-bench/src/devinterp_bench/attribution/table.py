"""The report of ``devinterp bench attribution``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from devinterp.errors import InvalidInputError
from devinterp_bench.attribution.bank import Retraining, bank
from devinterp_bench.attribution.bif_scores import shortened
from devinterp_bench.attribution.compare import Scored, compare, methods
from devinterp_bench.attribution.shapes import SHAPES, Shape
from devinterp_bench.report import Report, TextTable, versions

#: With `--quick`: models and draws that take seconds, and say little.
QUICK, QUICK_DRAWS = Retraining(num_subsets=12, num_seeds=2), 50


def attribution_report(
    names: Sequence[str], *, quick: bool, how: Retraining, path: Path | None, console: Console
) -> Report:
    """Compare influence scores of several methods on some shapes.

    Parameters
    ----------
    names : sequence of str
        Parts of names of shapes; empty for all.
    quick : bool
        Whether to take few draws.
    how : Retraining
        How many models are retrained.
    path : Path, optional
        Where they are kept.
    console : rich.console.Console
        Where progress is shown.
    """
    shapes = [shape for shape in SHAPES if not names or any(part in shape.name for part in names)]
    if not shapes:
        known = "\n  ".join(shape.name for shape in SHAPES)
        raise InvalidInputError(f"`--problem` (={', '.join(names)}) is in no name. Known:\n  {known}")
    torch.set_num_threads(1)  # tensors this small gain nothing from threads that wait for each other
    tables, scored = [], []
    for shape in shapes:
        shape = shortened(shape, QUICK_DRAWS) if quick else shape
        measured = bank(shape, how, path, console)
        jobs = track(compare(shape, measured, how), shape.name, total=len(methods(shape)), console=console)
        mine = sorted(jobs, key=lambda each: -each.lds)
        tables.append(_table(shape, mine))
        scored += mine
    return Report(
        tables, {"scores": [asdict(each) for each in scored], "retraining": asdict(how), "versions": versions()}
    )


def _table(shape: Shape, scored: Sequence[Scored]) -> TextTable:
    limit = f"{scored[0].ceiling:.3f} ± {scored[0].ceiling_se:.3f}"
    rows = [[s.method, f"{s.lds:.3f} ± {s.lds_se:.3f}", f"{s.seconds_per_query:.3g}"] for s in scored]
    return TextTable(f"{shape.name} (ceiling {limit})", ("scores", "LDS", "seconds per query"), rows)


def retraining(*, quick: bool, seeds: int | None, seed: int) -> Retraining:
    """Return how many models are trained, by the options of the command."""
    how = replace(QUICK if quick else Retraining(), seed=seed)
    return how if seeds is None else replace(how, num_seeds=seeds)
