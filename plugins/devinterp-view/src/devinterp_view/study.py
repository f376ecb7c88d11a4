"""One page about the runs of a study: a list, coefficients along what varies, and the page of each as far as there is room."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.schema import RESTRICTION
from devinterp.store.reading.study_table import table_of
from devinterp.study_labels import StudyLabels
from devinterp.token_text import Tokenizer
from devinterp_view import facts
from devinterp_view.along import Coefficient, along
from devinterp_view.budget import MAX_ROWS, attempt, first
from devinterp_view.coefficients import coefficients
from devinterp_view.html import REPORT, page, section
from devinterp_view.parts import MARK, run_parts
from devinterp_view.subject import Subject
from devinterp_view.text import embedded, name, number

#: Sections of the page of a run.
_SECTIONS = ("summary", "traces", "coefficients", "restrictions", "clusters", "tokens", "settings", "provenance")
#: Of these, which a run may be without, and the value that says so.
_OPTIONAL = {"restrictions": "restrictions", "clusters": "has_clusters"}
#: Runs without numbers that are named.
_MAX_MISSING = 20
#: Bytes of the pages of all runs together, and runs that have one.
MAX_BYTES, MAX_PAGES = 20 * 2**20, 200


@dataclass(frozen=True, slots=True)
class RunRow:
    """What the list of runs says of one.

    Parameters
    ----------
    path : str
        Of the run.
    labels : mapping of str to object
        What tells it apart.
    verdict : str
        Of its diagnosis; ``"not judged"`` without one.
    coefficients : mapping of str to Coefficient
        By restriction; empty where there are none.
    reason : str
        Why there are none.
    """

    path: str
    labels: Mapping[str, Any]
    verdict: str
    coefficients: Mapping[str, Coefficient]
    reason: str


def render_study(tree: xr.DataTree, *, tokenizer: Tokenizer | None, num_runs: int, source: str, **options: Any) -> str:
    """Return the HTML of a report of several runs.

    Parameters
    ----------
    tree : xarray.DataTree
        A study, or any node with several runs below it.
    tokenizer : Tokenizer or None
        Decodes token ids.
    num_runs : int
        How many runs have a page of their own; all are listed, up to 1,000.
    source : str
        Where the study is stored, as the page says it.
    **options
        Passed to `devinterp_view.parts.run_parts`.
    """
    runs = schema.runs(tree)
    listed, left_out = first(list(runs), MAX_ROWS, "runs")
    study = StudyLabels.of(runs)
    rows = [_row(path, Subject.of(runs[path]), {} if study is None else study.labels[path]) for path in listed]
    drawings, drawn_note = ([], "") if study is None else along(study, {row.path: row.coefficients for row in rows})
    shown, data, pages_note = _pages(runs, rows[:num_runs], len(runs), tokenizer, options)
    labels = list(dict.fromkeys(label for row in rows for label in row.labels))
    has_page = {values["path"] for values in shown}
    values = {
        "mark": MARK,
        "title": f"{len(runs):,} runs" + (f" that differ in {name(', '.join(labels))}" if labels else ""),
        "labels": [name(label) for label in labels],
        "rows": [_cells(row, labels, number) for number, row in enumerate(rows)],
        "has_page": [row.path in has_page for row in rows],
        "notes": [note for note in (left_out, _without_numbers(tree, list(runs)), pages_note) if note],
        "drawings": drawings,
        "drawn_note": drawn_note,
        "runs": shown,
        "source": name(source, 400),
        "version": metadata.version("devinterp"),
    }
    return page("study.html.j2", values, {"runs": data}, REPORT)


def _without_numbers(tree: xr.DataTree, paths: list[str]) -> str:
    """Return which runs of a study failed or have not begun, and why; empty if there are none."""
    if schema.STUDY not in tree.attrs:
        return ""
    table = table_of(tree.attrs[schema.STUDY])
    missing = [path for path in table.runs if path not in paths]
    if not missing:
        return ""
    told = [f"{name(path)} ({name(table.failed.get(path, 'not begun'), 200)})" for path in missing[:_MAX_MISSING]]
    more = f", and {len(missing) - _MAX_MISSING:,} more" if len(missing) > _MAX_MISSING else ""
    return f"{len(missing):,} more runs of the study have no numbers: {', '.join(told)}{more}."


def _row(path: str, subject: Subject, labels: Mapping[str, Any]) -> RunRow:
    verdict, _ = attempt(lambda: facts.verdict(subject))
    word = "not judged" if verdict is None else verdict.verdict
    table, reason = attempt(lambda: coefficients(subject))
    of: dict[str, Coefficient] = {}
    if table is not None:
        best = table.isel(estimate=0)
        means, errors = (np.asarray(best[key].transpose(RESTRICTION)) for key in ("mean", "se"))
        names = [str(each) for each in best[RESTRICTION].to_numpy()]
        of = {each: Coefficient(float(m), float(s), word) for each, m, s in zip(names, means, errors, strict=True)}
    return RunRow(path, labels, word, of, reason)


def _cells(row: RunRow, labels: list[str], index: int) -> dict[str, Any]:
    restriction, coefficient = next(iter(row.coefficients.items()), ("", None))
    of = f" ({name(restriction, 40)})" if len(row.coefficients) > 1 else ""
    return {
        "name": name(row.path),
        "suffix": f"-{index}",
        "labels": [label_cell(row.labels.get(label)) for label in labels],
        "verdict": row.verdict,
        "text": name(row.reason, 200) if coefficient is None else number(coefficient.mean, coefficient.error) + of,
        "value": "" if coefficient is None or not np.isfinite(coefficient.mean) else repr(coefficient.mean),
    }


def label_cell(value: Any) -> tuple[str, str]:
    """Return a label of a run as it is shown, and by what its column is sorted."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    text = "–" if value is None else f"{value:.6g}" if isinstance(value, float) else name(value)
    return text, repr(float(value)) if is_number else text


def _pages(
    runs: Mapping[str, xr.DataTree],
    rows: list[RunRow],
    num_all: int,
    tokenizer: Tokenizer | None,
    options: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], str]:
    """Return what the pages of some runs show, what their script reads, and which were left out."""
    shown: list[dict[str, Any]] = []
    data: list[dict[str, Any]] = []
    num_bytes = 0
    for index, row in enumerate(rows):
        values, of_run = run_parts(runs[row.path], tokenizer=tokenizer, **options)
        values |= {"suffix": f"-{index}", "path": row.path, "name": name(row.path)}
        names = [each for each in _SECTIONS if each not in _OPTIONAL or values[_OPTIONAL[each]]]
        made = [section(each, values) for each in names]
        num_bytes += len(embedded(of_run)) + sum(len(each.encode()) for each in made)
        if shown and num_bytes > MAX_BYTES:
            break
        shown.append(values | {"sections": made})
        data.append(of_run)
    if len(shown) == num_all:
        return shown, data, ""
    which = f"The first {len(shown):,} of {num_all:,} runs have" if shown else f"None of {num_all:,} runs has"
    note = f"{which} a page below: `--num-runs` sets how many, up to {MAX_PAGES} and {MAX_BYTES // 2**20} MB together."
    return shown, data, note
