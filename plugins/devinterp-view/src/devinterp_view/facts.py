"""What a page says of a run in words: the verdict with its findings, settings and provenance."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from devinterp import runs, schema
from devinterp.analyses.diagnosis import diagnose
from devinterp.schema import CHAIN, DRAW, STATUS, STEP, TRACE
from devinterp_view.budget import MAX_FINDINGS, MAX_ROWS, first
from devinterp_view.subject import Subject
from devinterp_view.text import name

#: Observables that the list of sizes names.
MAX_OBSERVABLES_LISTED = 40
_FIELDS = ("severity", "code", "message", "advice")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What ``tree.slt.diagnose()`` says of a run.

    Parameters
    ----------
    verdict : str
        ``"ok"``, ``"note"``, ``"warning"`` or ``"reject"``.
    findings : list of dict of str to str
        ``severity``, ``code``, ``message``, ``advice`` and ``about`` of each, the worst first.
    not_looked_at : list of (str, str)
        Checks that could not be made, and why.
    left_out : str
        How many findings are not shown; empty if all are.
    """

    verdict: str
    findings: list[dict[str, str]]
    not_looked_at: list[tuple[str, str]]
    left_out: str


def verdict(subject: Subject) -> Verdict:
    """Return the verdict of a run, and why."""
    result = diagnose(subject.run).compute()
    numbers, left_out = first(range(result.sizes["finding"]), MAX_FINDINGS, "findings")
    findings = [
        {
            **{field: name(result[field].to_numpy()[n], 600) for field in _FIELDS},
            "about": name(_about(result.isel(finding=n))),
        }
        for n in numbers
    ]
    missed = [
        (name(check), name(reason, 600))
        for check, reason, is_looked_at in zip(
            result["check"].to_numpy(), result["reason"].to_numpy(), result["looked_at"].to_numpy(), strict=True
        )
        if not is_looked_at
    ]
    return Verdict(str(result["verdict"].item()), findings, missed, left_out)


def _about(finding: xr.Dataset) -> str:
    parts = [str(finding[key].item()) for key in ("restriction", "observable") if finding[key].item()]
    if int(finding["chain"].item()) >= 0:
        parts.append(f"chain {int(finding['chain'].item())}")
    return ", ".join(parts)


def sizes(subject: Subject) -> list[tuple[str, str]]:
    """Return how large a run is, as pairs of a word and a number."""
    run = subject.run
    trace = run.children[TRACE].to_dataset(inherit=False)
    rows = [
        ("weight restrictions", f"{len(subject.restrictions):,}"),
        ("chains of each", f"{run.sizes.get(CHAIN, trace.sizes.get(CHAIN, 0)):,}"),
        ("steps of a chain", f"{trace.sizes.get(STEP, 0):,}"),
        ("draws of a chain", f"{run.sizes.get(DRAW, 0):,}"),
    ]
    shown, left_out = first(subject.observables, MAX_OBSERVABLES_LISTED, "observables")
    rows += [(f"sequences of {name(each)}", f"{subject.num_sequences(each):,}") for each in shown]
    if left_out:
        rows.append(("observables", left_out))
    if STATUS in run.children:
        states = np.asarray(run[f"{STATUS}/state"]).astype(object).ravel()
        rows += [
            (f"chains {state}", f"{(states == state).sum():,}") for state in schema.STATES if (states == state).any()
        ]
    return rows


def settings(subject: Subject) -> tuple[list[tuple[str, str]], str]:
    """Return the arguments of a run as rows of a table, and what was left out of them."""
    return _table(runs.settings(subject.run), "settings")


def provenance(subject: Subject) -> tuple[list[tuple[str, str]], str]:
    """Return what a run records of how it was made as rows of a table, and what was left out of them."""
    text = subject.run.attrs.get("provenance", "{}")
    try:
        values = json.loads(text) if isinstance(text, str) else dict(text)
    except (ValueError, TypeError):
        return [("provenance", "(cannot be read)")], ""
    return _table(values if isinstance(values, Mapping) else {"provenance": values}, "entries")


def _table(values: Mapping[str, Any], what: str) -> tuple[list[tuple[str, str]], str]:
    rows, left_out = first(list(_flat(values)), MAX_ROWS // 4, what)
    return [(name(key), name(value, 400)) for key, value in rows], left_out


def _flat(values: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value and depth < 8:
            yield from _flat(value, f"{prefix}{key}.", depth + 1)
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, default=str)


def title(subject: Subject) -> str:
    """Return the model of a run, or its restrictions where it does not say which model."""
    text = subject.run.attrs.get("provenance", "{}")
    try:
        model = json.loads(text).get("model", "") if isinstance(text, str) else ""
    except (ValueError, AttributeError):
        model = ""
    restrictions = subject.restrictions
    parts = restrictions[0] if len(restrictions) == 1 else f"{len(restrictions)} weight restrictions"
    return name(f"{model}: {parts}" if model else f"sampling run: {parts}")
