"""Learning coefficients with their errors, and the table of restrictions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from devinterp.analyses.llc import compute_llc, estimates
from devinterp.analyses.susceptibilities.averaged import mean_susceptibilities
from devinterp.schema import RESTRICTION
from devinterp_view.budget import MAX_OBSERVABLES, MAX_ROWS, attempt, first
from devinterp_view.subject import Subject
from devinterp_view.text import name, number

_COLUMNS = ("mean", "se", "lower", "upper", "rhat", "ess")


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of a table.

    Parameters
    ----------
    text : str
        As it is shown.
    value : str
        The number itself, by which columns are sorted; empty where there is none.
    """

    text: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be sorted.

    Parameters
    ----------
    columns : list of str
        Their headings.
    rows : list of (str, list of Cell)
        The name of each row, and its numbers.
    left_out : str
        What is not shown; empty if all is.
    notes : list of str
        What is to be known beside the numbers.
    """

    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    left_out: str = ""
    notes: list[str] = field(default_factory=list)


def coefficients(subject: Subject) -> xr.Dataset:
    """Return all learning coefficients ``(restriction, estimate)``, computed."""
    result = compute_llc(subject.run, chains=subject.chains).compute()
    table = estimates(result)
    if RESTRICTION not in table.dims:
        table = table.expand_dims({RESTRICTION: subject.restrictions})
    return table.assign_attrs(caution=str(result.attrs.get("caution", "")))


def coefficient_table(table: xr.Dataset) -> Table:
    """Return a row for each coefficient, the paired ones first."""
    is_study = table.sizes[RESTRICTION] > 1
    labels = [(r, e) for r in range(table.sizes[RESTRICTION]) for e in range(table.sizes["estimate"])]
    shown, left_out = first(labels, MAX_ROWS, "coefficients")
    arrays = {key: table[key].transpose(RESTRICTION, "estimate").to_numpy() for key in _COLUMNS}
    names, kinds = table[RESTRICTION].to_numpy(), table["estimate"].to_numpy()
    rows = []
    for r, e in shown:
        one = {key: float(array[r, e]) for key, array in arrays.items()}
        label = f"{names[r]} · {kinds[e]}" if is_study else str(kinds[e])
        rows.append((name(label), _cells(one)))
    reasons = dict.fromkeys(str(each) for each in table["reason"].to_numpy().ravel() if each)
    notes = [f"No error: {name(reason, 400)}." for reason in list(reasons)[:8]]
    if table.attrs.get("caution"):
        notes.append(name(table.attrs["caution"], 400))
    return Table(["LLC ± standard error", "95 % interval", "R-hat", "ESS"], rows, left_out, notes)


def _cells(one: dict[str, float]) -> list[Cell]:
    has_error = np.isfinite(one["se"])
    interval = f"{one['lower']:.4g} to {one['upper']:.4g}" if has_error else "–"
    return [
        _cell(number(one["mean"], one["se"]), one["mean"]),
        _cell(interval, one["lower"] if has_error else np.nan),
        _cell("–" if np.isnan(one["rhat"]) else f"{one['rhat']:.3f}", one["rhat"]),
        _cell("–" if np.isnan(one["ess"]) else f"{one['ess']:.0f}", one["ess"]),
    ]


def _cell(text: str, value: float) -> Cell:
    return Cell(text, repr(float(value)) if np.isfinite(value) else "")


def restriction_table(subject: Subject, table: xr.Dataset, sampling_task: str | None) -> Table:
    """Return a row for each restriction: its weights, its coefficients, and its mean susceptibilities to each observable."""
    numbers, left_out = first(range(table.sizes[RESTRICTION]), MAX_ROWS, "restrictions")
    kinds, more = first([str(each) for each in table["estimate"].to_numpy()], MAX_OBSERVABLES, "coefficients of each")
    columns = ["sampled weights", *(f"LLC, {name(kind)}" for kind in kinds), "R-hat", "ESS"]
    means, reason = attempt(lambda: _mean_susceptibilities(subject, sampling_task))
    names = [str(each) for each in table[RESTRICTION].to_numpy()]
    observables: list[str] = []
    notes = [f"No susceptibilities: {name(reason, 400)}"] if means is None else []
    if means is not None:
        observables = [str(each) for each in means["observable"].to_numpy()][:MAX_OBSERVABLES]
        columns += [f"mean χ, {name(each)}" for each in observables]
        notes.append(f"χ: mean susceptibility of the observable's tokens, {_of(means)}.")
    values = {key: table[key].transpose(RESTRICTION, "estimate").to_numpy() for key in _COLUMNS}
    rows = []
    for r in numbers:
        cells = [_num_weights(subject.run, r)]
        cells += [_cell(number(m, s), m) for m, s in zip(values["mean"][r], values["se"][r], strict=True)][: len(kinds)]
        cells += _cells({key: float(array[r, 0]) for key, array in values.items()})[2:]
        if means is not None:
            of_row = means.sel({RESTRICTION: names[r]})
            for each in observables:
                one = of_row.sel(observable=each)
                chi = float(one["susceptibility"])
                cells.append(_cell(number(chi, float(one["susceptibility_se"])), chi))
        rows.append((name(names[r]), cells))
    return Table(columns, rows, f"{left_out} {more}".strip(), notes)


def _num_weights(run: xr.DataTree, restriction: int) -> Cell:
    if "num_moving" not in run.variables:
        return Cell("–")
    count = int(np.atleast_1d(run["num_moving"].to_numpy())[restriction])
    return Cell(f"{count:,}", repr(float(count)))


def _mean_susceptibilities(subject: Subject, sampling_task: str | None) -> xr.Dataset:
    # Of the sampling task itself the mean is zero by definition.
    options = {**susceptibility_options(subject), "include_sampling_task": False}
    return mean_susceptibilities(subject.run, sampling_task, **options).compute()


def susceptibility_options(subject: Subject) -> dict[str, Any]:
    """Return options of susceptibilities: of all observables, in the two-run form where the run has all weights."""
    estimator = "two_run" if "full" in subject.restrictions else "single_run"
    return {"include_sampling_task": True, "estimator": estimator, "chains": subject.chains}


def _of(means: xr.Dataset) -> str:
    form = "compared with the run of all weights" if means.attrs["estimator"] == "two_run" else "single-run form"
    return f"sampled on {name(means.attrs['sampling_task'])}, {form}, ± jackknife error over chains"
