"""What a study would cost, before it is paid for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

from rich.console import Console, ConsoleOptions
from rich.table import Table

from devinterp.sampling.estimate import DryRun
from devinterp.slt.prepared_run import settings_of
from devinterp.studies.loading import ModelLoader
from devinterp.studies.plan import PlannedRun, StudyPlan
from devinterp.studies.run_one import run_into

#: Settings that decide numbers, and not how much is computed or stored.
_FREE = ("lr", "n_beta", "localization", "weight_decay", "init_seed", "obs_seed", "noise_level", "max_grad_norm")


@final
@dataclass(frozen=True)
class StudyCost:
    """What a study would cost.

    Parameters
    ----------
    kinds : mapping of str to (int, DryRun)
        Of each kind of run, by the name of one that was tried: how many runs there are, and what one costs.
    """

    kinds: Mapping[str, tuple[int, DryRun]]

    @property
    def num_runs(self) -> int:
        """Return the number of runs."""
        return sum(number for number, _ in self.kinds.values())

    @property
    def num_bytes(self) -> int:
        """Return the size of the store, in bytes."""
        return sum(number * cost.num_bytes for number, cost in self.kinds.values())

    @property
    def gradients(self) -> int:
        """Return the number of forward and backward passes of one batch each."""
        return sum(number * cost.gradients for number, cost in self.kinds.values())

    @property
    def evaluations(self) -> int:
        """Return the number of forward passes alone, of one batch each."""
        return sum(number * cost.evaluations for number, cost in self.kinds.values())

    @property
    def seconds(self) -> float:
        """Return the time of all runs one after the other, as measured by a few steps on this machine."""
        return sum(number * cost.seconds for number, cost in self.kinds.values())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table | str]:
        """Yield a table of the kinds of runs, and the total in a line."""
        table = Table("runs like", title="what this study would cost")
        for heading in ("runs", "gradients", "evaluations", "bytes", "seconds"):
            table.add_column(heading, justify="right")
        for name, (number, cost) in self.kinds.items():
            one = (number, cost.gradients * number, cost.evaluations * number, cost.num_bytes * number)
            table.add_row(name, *(f"{each:,}" for each in one), f"{cost.seconds * number:,.1f}")
        yield table
        hours, minutes = divmod(int(self.seconds) // 60, 60)
        yield (
            f"{self.num_runs:,} runs, {self.gradients:,} gradients and {self.evaluations:,} evaluations of a batch, "
            f"{self.num_bytes:,} bytes; about {hours} h {minutes} min {self.seconds % 60:.0f} s one after the other."
        )


def estimate_study(plan: StudyPlan) -> StudyCost:
    """Return what all runs of a study would cost. Tries a few steps of each kind of run; writes nothing.

    Runs are of one kind where they differ only in numbers such as ``lr``, in seeds, or in which checkpoint of a model they
    sample: the first of each kind is loaded and tried.
    """
    kinds: dict[str, list[PlannedRun]] = {}
    for run in plan.runs:
        kinds.setdefault(_kind(plan, run), []).append(run)
    loader, costs = ModelLoader(plan.source), {}
    for runs in kinds.values():
        first = runs[0]
        cost = run_into(None, loader.get(first.point), first.arguments, plan.how, {})
        assert isinstance(cost, DryRun)
        costs[first.name] = (len(runs), cost)
    return StudyCost(costs)


def _kind(plan: StudyPlan, run: PlannedRun) -> str:
    """Return a text that is the same for runs that cost the same."""
    settings: dict[str, Any] = settings_of(run.arguments).to_config()
    model = [label for name, label in run.point.labels.items() if name in plan.source.names and not _is_number(label)]
    others = [repr(run.arguments[name]) for name in ("param_masks", "weight_restrictions")]
    data = [id(run.arguments["dataset"]), id(run.arguments["observables"])]
    counted = {name: value for name, value in settings.items() if name not in _FREE}
    return json.dumps([counted, model, others, data], default=str)


def _is_number(label: object) -> bool:
    return isinstance(label, int | float)
