"""One page about one run: every section, or why the run does not have it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from devinterp.errors import InvalidInputError
from devinterp.token_text import Tokenizer
from devinterp_view import sections
from devinterp_view.budget import Limits, attempt
from devinterp_view.html import REPORT, packed, page
from devinterp_view.influences import Influences, influences
from devinterp_view.layers import Layer, layer_label, layers
from devinterp_view.passages import Passage, choose
from devinterp_view.subject import Subject
from devinterp_view.text import name

#: The first line of every report, by which one is told from other files.
MARK = "<!doctype html><!-- devinterp report -->"


def report(tree: xr.DataTree, output: str | Path, *, overwrite: bool = False, **options: Any) -> Path:
    """Write what a run says as one HTML file that needs no network.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run.
    output : str or pathlib.Path
        The file, whose name ends in ``.html``.
    overwrite : bool, default: False
        Write over an earlier report of this name; any other file is left alone.
    **options
        Those of `render`.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    InvalidInputError
        If the file exists or its name ends otherwise, or as `render`.
    """
    path = check_output(Path(output), overwrite=overwrite)
    text = render(tree, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_text(text, encoding="utf-8", newline="\n")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def check_output(path: Path, *, overwrite: bool) -> Path:
    """Return the path of a report to be written.

    Raises
    ------
    InvalidInputError
        If its name does not end in ``.html``, or a file is there that may not be written over.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise InvalidInputError(f"`output` (={str(path)!r}) must end in '.html'.")
    if path.exists() and not (overwrite and path.is_file() and path.read_bytes()[: len(MARK)] == MARK.encode()):
        advice = "it is no report of devinterp" if overwrite else "choose another name, or pass `overwrite`"
        raise InvalidInputError(f"`output` (={str(path)!r}) exists: {advice}.")
    return path


def render(
    tree: xr.DataTree,
    *,
    tokenizer: Tokenizer | None = None,
    passages: Mapping[str, Sequence[int] | None] | None = None,
    restriction: str | None = None,
    sampling_task: str | None = None,
    limits: Limits | None = None,
    source: str = "",
    text_note: str = "",
    scripts: Sequence[str] = REPORT,
) -> str:
    """Return the HTML of a report.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run.
    tokenizer : Tokenizer, optional
        Decodes token ids; without one, ids are shown.
    passages : mapping of str to sequence of int, optional
        Which sequences of which observables to show; None for the first ones. Default: the first ones of every observable.
    restriction : str, optional
        Weight restriction of influences; default: ``"full"`` if there is one, else the first.
    sampling_task : str, optional
        The observable made of the data that the run was sampled on, for susceptibilities; needed where there are several.
    limits : Limits, optional
        How much is shown.
    source : str, optional
        Where the run is stored, as the page says it.
    text_note : str, optional
        What is to be known of the text of tokens.
    scripts : sequence of str, optional
        Files of ``page/`` that together are the script of the page.

    Returns
    -------
    str
        The page.

    Raises
    ------
    MissingDataError
        If the tree holds no run.
    InvalidInputError
        If it holds several, or a name is not there.
    """
    limits = Limits() if limits is None else limits
    subject = Subject.of(tree)
    restriction = subject.restriction_of_influences(restriction)
    shown, passages_left_out = choose(subject, passages, tokenizer, limits)
    summary = sections.summary(subject)
    values = summary | sections.traces(subject) | sections.tables(subject, sampling_task, summary["verdict"])
    coloured, layer_notes = layers(subject, shown, sampling_task) if shown else ([], ["This run has no observables."])
    pairs, reason = attempt(lambda: influences(subject, shown, restriction, tokenizer, limits)) if shown else (None, "")
    notes = [*layer_notes, *([passages_left_out] if passages_left_out else []), *([text_note] if text_note else [])]
    notes += pairs.notes if pairs is not None else [f"No influences: {reason}"] if reason else []
    values |= sections.settings(subject) | sections.tokens(shown, coloured)
    values |= {
        "source": name(source, 400),
        "mark": MARK,
        "version": metadata.version("devinterp"),
        "passage_notes": [name(note, 600) for note in notes],
        "influence_restriction": name(restriction) if pairs is not None else "",
    }
    return page("report.html.j2", values, _data(subject, shown, coloured, pairs), scripts)


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
