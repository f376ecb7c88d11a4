"""What the page of one run shows and what its script reads: every section, or why the run does not have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from devinterp.token_text import Tokenizer
from devinterp_view import sections
from devinterp_view.budget import Limits, attempt
from devinterp_view.html import packed
from devinterp_view.influences import Influences, influences
from devinterp_view.layers import Layer, layer_label, layers
from devinterp_view.passages import Passage, choose
from devinterp_view.subject import Subject
from devinterp_view.text import name

#: The first line of every report, by which one is told from other files.
MARK = "<!doctype html><!-- devinterp report -->"


def run_parts(
    tree: xr.DataTree,
    *,
    tokenizer: Tokenizer | None = None,
    passages: Mapping[str, Sequence[int] | None] | None = None,
    restriction: str | None = None,
    sampling_task: str | None = None,
    limits: Limits | None = None,
    text_note: str = "",
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the page of a run shows, and what its script reads; see `devinterp_view.report.render`."""
    limits = Limits() if limits is None else limits
    subject = Subject.of(tree)
    restriction = subject.restriction_of_influences(restriction)
    shown, passages_left_out = choose(subject, passages, tokenizer, limits)
    summary = sections.summary(subject)
    values = summary | sections.traces(subject) | sections.tables(subject, sampling_task, summary["verdict"])
    values |= sections.token_clusters(subject, sampling_task, tokenizer)
    coloured, layer_notes = layers(subject, shown, sampling_task) if shown else ([], ["This run has no observables."])
    pairs, reason = attempt(lambda: influences(subject, shown, restriction, tokenizer, limits)) if shown else (None, "")
    notes = [*layer_notes, *([passages_left_out] if passages_left_out else []), *([text_note] if text_note else [])]
    notes += pairs.notes if pairs is not None else [f"No influences: {reason}"] if reason else []
    values |= sections.settings(subject) | sections.tokens(shown, coloured)
    values |= {
        "passage_notes": [name(note, 600) for note in notes],
        "influence_restriction": name(restriction) if pairs is not None else "",
    }
    return values, _data(subject, shown, coloured, pairs)


def _data(
    subject: Subject, shown: Sequence[Passage], coloured: Sequence[Layer], pairs: Influences | None
) -> dict[str, Any]:
    """Return what the script reads."""
    return {
        "passages": sections.passage_data(subject, shown),
        "layers": [
            {
                "kind": layer.kind,
                "label": " · ".join(layer_label(layer.kind, layer.restriction)),
                "restriction": name(layer.restriction),
                **layer.numbers(),
            }
            for layer in coloured
        ],
        "influence": None if pairs is None else _influence_data(pairs, shown),
    }


def _influence_data(pairs: Influences, shown: Sequence[Passage]) -> dict[str, Any]:
    passage_of = {(each.observable, each.sequence): n for n, each in enumerate(shown)}
    used = sorted({int(each) for each in np.unique(pairs.row) if each >= 0})
    number_of = {old: new for new, old in enumerate(used)}
    renumbered = np.vectorize(lambda row: number_of.get(row, -1), otypes=[np.int32])(pairs.row)
    vocabulary: dict[str, int] = {}
    rows = [
        {
            "label": f"{name(pairs.candidates.rows[old][0])} {pairs.candidates.rows[old][1]}",
            "passage": passage_of.get(pairs.candidates.rows[old]),
            "tokens": [vocabulary.setdefault(text, len(vocabulary)) for text in pairs.candidates.texts[old]],
        }
        for old in used
    ]
    return {
        "restriction": name(pairs.restriction),
        "rank": pairs.values.shape[2],
        "blocks": [None if each is None else packed(each) for each in pairs.blocks],
        "block_errors": [None if each is None else packed(each) for each in pairs.block_errors],
        "values": packed(pairs.values),
        "errors": packed(pairs.errors),
        "row": packed(renumbered),
        "position": packed(pairs.position),
        "rows": rows,
        "vocabulary": list(vocabulary),
    }
