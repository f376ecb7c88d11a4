"""How much an estimate depends on each setting: the suite again, with one setting at a time made larger or smaller."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from devinterp_bench.measure import Effort, Measurement, measure
from devinterp_bench.problems import Problem
from devinterp_bench.summary import mean_over_seeds

SETTINGS = ("n_beta", "localization", "lr")
#: What each setting is multiplied with.
FACTORS = (0.1, 1 / 3, 3.0, 10.0)


@dataclass(frozen=True)
class Variant:
    """A setting that is changed, all others being those of the problem.

    Parameters
    ----------
    setting : str
        ``"n_beta"``, ``"localization"``, ``"lr"``, or ``""`` for none.
    factor : float
        What it is multiplied with.
    """

    setting: str
    factor: float

    @property
    def label(self) -> str:
        """Return the name of a column."""
        if not self.setting:
            return "as tuned"
        return f"{self.setting} x {self.factor:g}" if self.factor > 1 else f"{self.setting} / {1 / self.factor:g}"


VARIANTS = (Variant("", 1.0), *(Variant(setting, factor) for setting in SETTINGS for factor in FACTORS))


def vary(problem: Problem, effort: Effort, variant: Variant) -> tuple[Problem, Effort]:
    """Return a problem and the effort to sample it with, changed in one setting; the step stays as it is in the others."""
    lr = (effort.lr if effort.lr is not None else problem.lr(effort.relative_lr)) * (
        variant.factor if variant.setting == "lr" else 1.0
    )
    changes = (
        {variant.setting: getattr(problem, variant.setting) * variant.factor} if variant.setting in SETTINGS[:2] else {}
    )
    return replace(problem, **changes), replace(effort, lr=lr)


def sensitivity(
    problems: Sequence[Problem], kernel: str, effort: Effort, *, seed: int = 0
) -> Iterator[tuple[Variant, list[Measurement]]]:
    """Yield the measurements of every variant of every problem."""
    for problem in problems:
        for variant in VARIANTS:
            changed, how = vary(problem, effort, variant)
            yield variant, measure(changed, kernel, how, seed=seed)


def sensitivity_rows(measured: Sequence[tuple[Variant, list[Measurement]]]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of a table: relative errors by problem and variant, and the medians of their sizes.

    The last column is the largest stated standard error of a row. Where any chain diverged there is a dash.
    """
    columns = ["problem", *(variant.label for variant in VARIANTS), "± at most"]
    rows, errors = [], []
    for problem in dict.fromkeys(each[0].problem for _, each in measured):
        mine = {variant: each for variant, each in measured if each[0].problem == problem}
        truth = mine[VARIANTS[0]][0].truth
        estimates = [(mean_over_seeds(mine[v]), any(m.num_diverged for m in mine[v])) for v in VARIANTS]
        relative = [np.nan if diverged else mean / truth - 1 for (mean, _), diverged in estimates]
        errors.append(relative)
        stated = [error / truth for (_, error), diverged in estimates if not diverged]
        rows.append(
            [problem, *(_percent(value, "+.1%") for value in relative), _percent(max(stated, default=np.nan), ".1%")]
        )
    sizes = np.abs(np.array(errors))
    medians = [np.nan if np.isnan(column).any() else float(np.median(column)) for column in sizes.T]
    rows.append(["median of the sizes", *(_percent(value, ".1%") for value in medians), ""])
    return columns, rows


def _percent(value: float, form: str) -> str:
    return "-" if np.isnan(value) else format(value, form)
