"""``devinterp bench``: accuracy, sensitivity, coverage and efficiency of the installed kernels, and of influence scores."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.progress import track

from devinterp import optional, plugins
from devinterp.cli.options import pairs_of, value_of
from devinterp.errors import InvalidInputError
from devinterp_bench.measure import QUICK, Effort
from devinterp_bench.problems import Problem
from devinterp_bench.report import Report, machine
from devinterp_bench.sections import accuracy_report, coverage_report, efficiency_report, sensitivity_report
from devinterp_bench.suite import suite
from devinterp_bench.verdicts import summarise_verdicts, trials, verdict_tables, verdicts_to_json

Names = Annotated[tuple[str, ...], Parameter(show_default=False)]


@dataclass(frozen=True)
class Changes:
    """Settings of accuracy and sensitivity that are not the default ones.

    Parameters
    ----------
    num_chains : int, optional
        Chains of each estimate.
    num_burnin_steps : int, optional
        Steps that estimates leave out.
    num_draws : int, optional
        Steps that estimates use.
    relative_lr : float, optional
        Step size times the largest second derivative of each problem. Default: 0.1.
    lr : float, optional
        One step size for all problems, instead.
    n_beta : float, optional
        One n_beta for all problems. Default: each its own.
    localization : float, optional
        One localization for all problems. Default: each its own.
    """

    num_chains: int | None = None
    num_burnin_steps: int | None = None
    num_draws: int | None = None
    relative_lr: float | None = None
    lr: float | None = None
    n_beta: float | None = None
    localization: float | None = None

    def effort(self, default: Effort, seeds: int | None) -> Effort:
        """Return the default effort with these changes."""
        names = ("num_chains", "num_burnin_steps", "num_draws", "relative_lr", "lr")
        return replace(default, **_given({**{name: getattr(self, name) for name in names}, "num_seeds": seeds}))

    def problems(self, names: tuple[str, ...]) -> list[Problem]:
        """Return the problems whose name or family contains one of `names`, with these changes."""
        chosen = [p for p in suite() if not names or any(part in p.name or part in p.family for part in names)]
        if not chosen:
            known = "\n  ".join(p.name for p in suite())
            raise InvalidInputError(f"`--problem` (={', '.join(names)}) is in no name or family. Known:\n  {known}")
        return [replace(p, **_given({"n_beta": self.n_beta, "localization": self.localization})) for p in chosen]


def bench(
    what: Literal["accuracy", "sensitivity", "coverage", "efficiency", "verdicts", "attribution"],
    /,
    *,
    kernel: Names = (),
    problem: Names = (),
    kernel_option: Names = (),
    quick: Annotated[bool, Parameter(negative=())] = False,
    seeds: int | None = None,
    changes: Annotated[Changes, Parameter(name="*")] = Changes(),
    seed: int = 0,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    table: Path | None = None,
    bank: Path | None = None,
) -> None:
    """Measure how close each kernel's learning coefficients come to known ones, and what they cost.

    Parameters
    ----------
    what : {"accuracy", "sensitivity", "coverage", "efficiency", "verdicts", "attribution"}
        accuracy: estimates beside exact coefficients. sensitivity: the same with one setting at a time changed. coverage: how
        often stated errors of runs with minibatches hold. efficiency: effective draws for each gradient and second, each
        kernel at its best step, relative to SGLD. verdicts: how often `devinterp diagnose` is right,
        on runs with random settings. attribution: how well influence scores of several methods predict the losses of models
        that are retrained on random halves of their data; an hour for all three shapes.
    kernel : tuple of str
        Sampling methods; may be repeated. Default: all that apply; for sensitivity baoab.
    problem : tuple of str
        Only problems whose name or family contains this; may be repeated. The language models of efficiency take long, and are
        sampled only if named: "small language model", "SmolLM2". Of attribution: only these shapes.
    kernel_option : tuple of str
        accuracy: option of the sampling method, as name=value; may be repeated, and needs one --kernel.
    quick : bool
        One seed and fewer steps. attribution: 12 subsets, two seeds and few draws.
    seeds : int, optional
        Independent estimates of each. Default: 3, with --quick 1; runs of coverage: 100, with --quick 10; of verdicts: 200;
        models for each subset of attribution: 3, with --quick 2.
    changes : Changes
        Settings of accuracy and sensitivity.
    seed : int
        Seeds the noise.
    output : Path, optional
        Write all measurements to this JSON. efficiency: what it holds already is not measured again.
    table : Path, optional
        Write the tables to this Markdown file.
    bank : Path, optional
        attribution: keep the losses of retrained models in this Zarr store; those that it holds are not trained again.
    """
    console = Console()
    if seeds is not None and seeds < 1:
        raise InvalidInputError(f"`--seeds` (={seeds}) must be at least 1.")
    if kernel_option and len(kernel) != 1:
        raise InvalidInputError(f"`--kernel-option` needs one `--kernel`; got {len(kernel)}.")
    if what == "verdicts":
        _judge(console, seeds or 200, seed, output, table)
        return
    if bank is not None and what != "attribution":
        raise InvalidInputError(f"`--bank` (={bank}) is an option of attribution; got {what}.")
    kernels = [plugins.kernel(name).name for name in kernel]
    if what == "efficiency":
        report = efficiency_report(problem, kernels, output, console)
    elif what == "attribution":
        report = _attribution(problem, quick, seeds, seed, bank, console)
    elif what == "coverage":
        report = coverage_report(kernels, seeds or (10 if quick else 100), problem, console)
    elif what == "sensitivity":
        problems, effort = changes.problems(problem), changes.effort(QUICK if quick else Effort(), seeds)
        report = sensitivity_report(problems, kernels or ["baoab"], effort, seed, console)
    else:
        problems, effort = changes.problems(problem), changes.effort(QUICK if quick else Effort(), seeds)
        options = {name: value_of(text) for name, text in pairs_of(kernel_option, "kernel-option").items()}
        report = accuracy_report(problems, kernels or list(plugins.kernels()), effort, options, seed, console)
    _show(report, console, output, table)


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _attribution(
    names: tuple[str, ...], quick: bool, seeds: int | None, seed: int, bank: Path | None, console: Console
) -> Report:
    with optional.explained(needed_by="`devinterp bench attribution`", distribution="devinterp-bench"):
        from devinterp_bench.attribution.table import attribution_report, retraining

        how = retraining(quick=quick, seeds=seeds, seed=seed)
        return attribution_report(names, quick=quick, how=how, path=bank, console=console)


def _show(report: Report, console: Console, output: Path | None, table: Path | None) -> None:
    for each in report.tables:
        console.print(each.rich())
    console.print(f"Measured {machine()}.", highlight=False, soft_wrap=True)
    if output is not None:
        output.write_text(json.dumps(report.records, indent=1) + "\n")
    if table is not None:
        table.write_text(report.markdown())


def _judge(console: Console, runs: int, seed: int, output: Path | None, table: Path | None) -> None:
    done = list(track(trials(runs, seed=seed), description=f"{runs} runs", total=runs, console=console))
    summary = summarise_verdicts(done)
    console.print(verdict_tables(summary), markup=False, highlight=False, soft_wrap=True)
    if output is not None:
        report = {"summary": asdict(summary), "trials": verdicts_to_json(done), "seed": seed}
        output.write_text(json.dumps(report, indent=1) + "\n")
    if table is not None:
        table.write_text(verdict_tables(summary))
