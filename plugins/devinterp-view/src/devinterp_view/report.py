"""One page about one run or several, written into one file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import xarray as xr

from devinterp import arguments, schema
from devinterp.errors import InvalidInputError
from devinterp.token_text import Tokenizer
from devinterp_view.budget import Limits
from devinterp_view.html import REPORT, page
from devinterp_view.parts import MARK, run_parts
from devinterp_view.study import MAX_PAGES, render_study
from devinterp_view.text import name

#: Of several runs, how many have a page of their own.
NUM_RUNS = 12


def report(tree: xr.DataTree, output: str | Path, *, overwrite: bool = False, **options: Any) -> Path:
    """Write what a run says as one HTML file that needs no network.

    Parameters
    ----------
    tree : xarray.DataTree
        A sampling run, or a study of several.
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
    num_runs: int = NUM_RUNS,
    scripts: Sequence[str] = REPORT,
) -> str:
    """Return the HTML of a report.

    Parameters
    ----------
    tree : xarray.DataTree
        A sampling run, or a study of several.
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
    num_runs : int, default: 12
        Of several runs, how many have a page of their own; all are listed.
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
        If a name is not there.
    """
    if arguments.count("num_runs", num_runs, least=0) > MAX_PAGES:
        raise InvalidInputError(f"`num_runs` (={num_runs}) must be 0 to {MAX_PAGES}: it bounds the size of the file.")
    if len(schema.runs(tree)) > 1:
        return render_study(
            tree,
            tokenizer=tokenizer,
            num_runs=num_runs,
            source=source,
            passages=passages,
            restriction=restriction,
            sampling_task=sampling_task,
            limits=limits,
            text_note=text_note,
        )
    values, data = run_parts(
        tree,
        tokenizer=tokenizer,
        passages=passages,
        restriction=restriction,
        sampling_task=sampling_task,
        limits=limits,
        text_note=text_note,
    )
    about = {"source": name(source, 400), "mark": MARK, "version": metadata.version("devinterp")}
    return page("report.html.j2", values | about, data, scripts)
