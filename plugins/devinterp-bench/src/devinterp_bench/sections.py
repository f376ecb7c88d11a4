"""The four things that ``devinterp bench`` measures, each a function that returns a report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from devinterp.errors import InvalidInputError
from devinterp_bench import language_models
from devinterp_bench.coverage import COVERAGE_COLUMNS, LRS, Covered, coverage, coverage_rows, noisy_problems
from devinterp_bench.efficiency import Case, Trial, compare, trial_from_json
from devinterp_bench.efficiency_tables import COMPARISON_COLUMNS, comparison_rows
from devinterp_bench.known_targets import KNOWN_TARGETS, by_law, run_known
from devinterp_bench.language_models import LanguageProblem
from devinterp_bench.measure import Effort, Measurement, measure
from devinterp_bench.problems import Problem
from devinterp_bench.report import Report, TextTable, versions
from devinterp_bench.sensitivity import sensitivity, sensitivity_rows
from devinterp_bench.summary import summarise, to_json
from devinterp_bench.tables import accuracy_tables


def accuracy_report(
    problems: Sequence[Problem],
    kernels: Sequence[str],
    effort: Effort,
    options: Mapping[str, Any],
    seed: int,
    console: Console,
) -> Report:
    """Measure every kernel on every problem."""
    pairs = [(name, each) for name in kernels for each in problems]
    measurements: list[Measurement] = []
    for name, each in track(pairs, description=f"{len(kernels)} kernels, {len(problems)} problems", console=console):
        measurements += measure(each, name, effort, options=options, seed=seed)
    summary = summarise(measurements)
    records = {
        "measurements": to_json(measurements),
        "summary": {kernel: {k: _finite(v) for k, v in figures.items()} for kernel, figures in summary.items()},
        "effort": asdict(effort),
        "seed": seed,
        "versions": versions(),
    }
    return Report([TextTable(*table) for table in accuracy_tables(measurements)], records)


def sensitivity_report(
    problems: Sequence[Problem], kernels: Sequence[str], effort: Effort, seed: int, console: Console
) -> Report:
    """Measure how much estimates depend on each setting."""
    tables, records = [], {}
    for kernel in kernels:
        measured = []
        for problem in track(problems, description=f"{kernel}, {len(problems)} problems", console=console):
            measured += list(sensitivity([problem], kernel, effort, seed=seed))
        tables.append(TextTable(f"{kernel}: relative error, one setting changed", *sensitivity_rows(measured)))
        records[kernel] = [
            {"setting": variant.setting, "factor": variant.factor, **record}
            for variant, each in measured
            for record in to_json(each)
        ]
    return Report(tables, {"measurements": records, "effort": asdict(effort), "seed": seed, "versions": versions()})


def coverage_report(kernels: Sequence[str], replicas: int, names: Sequence[str], console: Console) -> Report:
    """Measure how often stated intervals hold, with minibatches that chains share and with their own."""
    unknown = [kernel for kernel in kernels if kernel not in LRS]
    if unknown:
        raise InvalidInputError(
            f"`--kernel` (={unknown[0]}) has no settings for coverage; expected one of {', '.join(LRS)}."
        )
    problems = [each for each in noisy_problems() if not names or any(name in each.name for name in names)]
    if not problems:
        raise _unknown(names, [each.name for each in noisy_problems()])
    jobs = [(each, kernel, shared) for each in problems for kernel in kernels or LRS for shared in (True, False)]
    measured: list[Covered] = []
    for each, kernel, shared in track(jobs, description=f"{replicas} runs each", console=console):
        measured += coverage(each, kernel, replicas, shared=shared)
    table = TextTable("Coverage of stated errors with minibatches", COVERAGE_COLUMNS, coverage_rows(measured))
    return Report([table], {"measurements": to_json(measured), "versions": versions()})


def efficiency_report(names: Sequence[str], kernels: Sequence[str], stored: Path | None, console: Console) -> Report:
    """Compare effective draws for each gradient; language models are sampled only where `names` asks for one.

    Parameters
    ----------
    names : sequence of str
        Parts of names of targets; empty for all known ones.
    kernels : sequence of str
        Only these kernels and the first, which is what others are compared to; empty for all.
    stored : Path, optional
        A report of an earlier call: what it holds is not measured again, and what is measured is written to it at once.
    console : rich.console.Console
        Where progress is shown.
    """
    trials = _stored_trials(stored)
    tables: list[TextTable] = []
    for name in [name for name in KNOWN_TARGETS if not names or any(part in name for part in names)]:
        make, cases = KNOWN_TARGETS[name]
        cases = _chosen(cases, kernels)
        jobs = [(case, step) for case in cases for step in case.steps]
        target = make()
        for case, step in track(_missing(name, jobs, trials), description=name, console=console):
            trials.append(run_known(name, target, case, step))
        _write(stored, trials)
        judged = [by_law(_trial(name, case, step, trials), target.expected(case, step)) for case, step in jobs]
        tables.append(_efficiency_table(name, judged, target.llc, target.llc_error))
    named = [each for each in language_models.PROBLEMS if any(part in each.name for part in names)]
    tables += [_language_table(problem, kernels, trials, stored, console) for problem in named]
    if not tables:
        raise _unknown(names, [*KNOWN_TARGETS, *(each.name for each in language_models.PROBLEMS)])
    return Report(tables, {"trials": to_json(trials), "versions": versions()})


def _language_table(
    problem: LanguageProblem, kernels: Sequence[str], trials: list[Trial], stored: Path | None, console: Console
) -> TextTable:
    cases = _chosen(problem.cases, kernels)
    jobs = [(problem.reference, problem.reference.steps[0]), *((case, step) for case in cases for step in case.steps)]
    missing = _missing(problem.name, jobs, trials)
    model, data = problem.load() if missing else (None, None)
    for case, step in track(missing, description=problem.name, console=console):
        trials.append(language_models.run_trial(problem, model, data, case, step))
        _write(stored, trials)
    reference = _trial(problem.name, problem.reference, problem.reference.steps[0], trials)
    note = (
        f", reference {reference.estimate:.2f} ± {reference.error:.2f} "
        f"({reference.kernel}, lr {reference.step:g}, {reference.num_gradients:,} gradients)"
    )
    judged = [_trial(problem.name, case, step, trials) for case in cases for step in case.steps]
    return _efficiency_table(f"{problem.name}{note}", judged, reference.estimate, reference.error)


def _efficiency_table(title: str, trials: Sequence[Trial], truth: float, error: float) -> TextTable:
    return TextTable(title, COMPARISON_COLUMNS, comparison_rows(compare(trials, truth, error)))


def _chosen(cases: Sequence[Case], kernels: Sequence[str]) -> tuple[Case, ...]:
    return tuple(case for n, case in enumerate(cases) if not n or not kernels or case.kernel in kernels)


def _missing(name: str, jobs: Sequence[tuple[Case, float]], trials: Sequence[Trial]) -> list[tuple[Case, float]]:
    present = {(t.problem, t.kernel, t.step) for t in trials}
    return [(case, step) for case, step in jobs if (name, case.label, step) not in present]


def _trial(name: str, case: Case, step: float, trials: Sequence[Trial]) -> Trial:
    return next(t for t in trials if (t.problem, t.kernel, t.step) == (name, case.label, step))


def _stored_trials(path: Path | None) -> list[Trial]:
    if path is None or not path.exists():
        return []
    return [trial_from_json(each) for each in json.loads(path.read_text())["trials"]]


def _write(path: Path | None, trials: Sequence[Trial]) -> None:
    if path is not None:
        path.write_text(json.dumps({"trials": to_json(trials), "versions": versions()}, indent=1) + "\n")


def _unknown(names: Sequence[str], known: Sequence[str]) -> InvalidInputError:
    listed = "\n  ".join(known)
    return InvalidInputError(f"`--problem` (={', '.join(names)}) is in no name. Known:\n  {listed}")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
