"""What the sections of a page show, for a report and for the viewer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from devinterp.analyses.common.pictures import colour_limit
from devinterp.token_text import Tokenizer
from devinterp_view import facts
from devinterp_view.budget import attempt
from devinterp_view.chart import chart
from devinterp_view.clusters import can_have_clusters, cluster_list
from devinterp_view.coefficients import coefficient_table, coefficients, restriction_table
from devinterp_view.facts import Verdict
from devinterp_view.layers import Layer, layer_label
from devinterp_view.palette import bins
from devinterp_view.passages import Passage
from devinterp_view.subject import Subject
from devinterp_view.text import name, number
from devinterp_view.traces import panels


def settings(subject: Subject) -> dict[str, Any]:
    """Return what needs no numbers of a run: its title, settings and provenance."""
    return {
        "title": facts.title(subject),
        "settings": facts.settings(subject),
        "provenance": facts.provenance(subject),
    }


def summary(subject: Subject) -> dict[str, Any]:
    """Return the verdict with its findings, and the size of the run."""
    verdict, reason = attempt(lambda: facts.verdict(subject))
    return {
        "caveat": name(subject.caveat, 600),
        "verdict": verdict,
        "verdict_reason": name(reason, 600),
        "sizes": facts.sizes(subject),
    }


def traces(subject: Subject) -> dict[str, Any]:
    """Return the drawings of losses and running coefficients, or why there are none."""
    drawn, reason = attempt(lambda: panels(subject))
    return {
        "charts": [[(panel, chart(panel)) for panel in row] for row in drawn[0]] if drawn is not None else [],
        "traces_note": drawn[1] if drawn is not None else name(reason, 600),
    }


def tables(subject: Subject, sampling_task: str | None, verdict: Verdict | None) -> dict[str, Any]:
    """Return the tables of coefficients and of restrictions, or why there are none, with the verdict beside them."""
    table, reason = attempt(lambda: coefficients(subject))
    several = table is not None and len(subject.restrictions) > 1
    return {
        "verdict": verdict,
        "coefficients": None if table is None else coefficient_table(table),
        "coefficients_reason": name(reason, 600),
        "headline": "" if table is None else headline(table),
        "restrictions": restriction_table(subject, table, sampling_task) if several and table is not None else None,
    }


def token_clusters(subject: Subject, sampling_task: str | None, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Return the table of clusters of tokens, or why there is none; neither of a run that none are looked for in."""
    if not can_have_clusters(subject):
        return {"has_clusters": False}
    table, reason = attempt(lambda: cluster_list(subject, sampling_task, tokenizer))
    return {"has_clusters": True, "clusters": table, "clusters_reason": name(reason, 600)}


def headline(table: xr.Dataset) -> str:
    """Return the most precise coefficient of the first restriction, with its error, in words."""
    one = table.isel(restriction=0, estimate=0)
    of = f" of {name(one['restriction'].item())}" if table.sizes["restriction"] > 1 else ""
    kind = "paired" if str(one["estimate"].item()) == "paired" else "minibatch"
    return f"{kind} LLC{of}: {number(float(one['mean']), float(one['se']))}"


def passage_data(subject: Subject, passages: Sequence[Passage]) -> list[dict[str, Any]]:
    """Return what the script reads of passages: how they are called beside a token, and which tokens they are."""
    return [
        {
            "label": each.short_label,
            "length": len(each.texts),
            "observable": subject.observables.index(each.observable),
            "sequence": each.sequence,
            "start": each.start,
        }
        for each in passages
    ]


def tokens(
    passages: Sequence[Passage], layers: Sequence[Layer], labels: Sequence[tuple[str, str]] | None = None
) -> dict[str, Any]:
    """Return the tokens of passages with the colour they have in the first layer, and the labels of layers to choose from.

    Parameters
    ----------
    passages : sequence of Passage
        What is shown.
    layers : sequence of Layer
        Numbers of all its tokens.
    labels : sequence of (str, str), optional
        Kind and restriction of the layers that can be chosen; default: those of `layers`.
    """
    colours = np.full(sum(len(passage.texts) for passage in passages), -1)
    if layers:
        colours = bins(layers[0].values, colour_limit(layers[0].values))
    shown, start = [], 0
    for passage in passages:
        stop = start + len(passage.texts)
        texts = list(zip(passage.texts, colours[start:stop].tolist(), strict=True))
        shown.append({"label": passage.label, "tokens": texts, "left_out": passage.left_out})
        start = stop
    if labels is None:
        labels = [layer_label(layer.kind, layer.restriction) for layer in layers]
    groups: dict[str, list[tuple[int, str]]] = {}
    for index, (kind, restriction) in enumerate(labels):
        groups.setdefault(kind, []).append((index, restriction))
    return {"passages": shown, "layers": list(labels), "layer_groups": list(groups.items())}
