"""An analysis as a command: its options from the signature, their help from the docstring."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from devinterp.cli.options import as_command, options_of
from devinterp.errors import InvalidInputError
from devinterp.token_text import Tokenizer
from devinterp.types import Analysis

STORE = Annotated[str, Parameter(help="Path or URL of the store of a run, or of several.")]
GROUP = Annotated[str | None, Parameter(help="Path of a sub-tree of the store, for example of one of several runs.")]
OUTPUT = Annotated[
    Path | None, Parameter(help="Where to write the whole result: a new .zarr, .csv or .json; default: show it only.")
]
_JSON = Annotated[bool, Parameter(help="Print the whole result as JSON.", negative="")]
_CSV = Annotated[bool, Parameter(help="Print the whole result as CSV, a line for each value.", negative="")]
TOKENIZER = Annotated[
    str | None,
    Parameter(
        help="Show tokens as the text of this model's: `smollm2`, a directory, or a model on the HuggingFace hub."
    ),
]
#: Analyses whose summaries show tokens.
_WITH_TOKENS = ("bif", "susceptibilities")


def command(analysis: Analysis) -> Callable[..., None]:
    """Return the command of an analysis: a function whose signature and docstring cyclopts reads.

    The options of the analysis become options of the command; those that cannot be written on a command line and have a
    default are left out. ``--group``, ``--output`` (``-o``), ``--json`` and ``--csv`` are added, unless the analysis
    has options of these names.

    Parameters
    ----------
    analysis : Analysis
        Any analysis.

    Returns
    -------
    callable
        ``run(store, **options)``, which prints the result.
    """
    options = options_of(analysis.compute, skip=1)
    taken = {option.name for option in options}
    ours = [
        _keyword("_group", GROUP, "--group", taken=taken),
        _keyword("_output", OUTPUT, "--output", "-o", taken=taken),
        _keyword("_json", _JSON, "--json", taken=taken, default=False),
        _keyword("_csv", _CSV, "--csv", taken=taken, default=False),
    ]
    if analysis.name in _WITH_TOKENS:
        ours.append(_keyword("_tokenizer", TOKENIZER, "--tokenizer", taken=taken))

    def run(
        _store: str,
        *,
        _group: str | None = None,
        _output: Path | None = None,
        _json: bool = False,
        _csv: bool = False,
        _tokenizer: str | None = None,
        **given: Any,
    ) -> None:
        from devinterp.cli.findings import exit_status, is_diagnosis, show_findings
        from devinterp.cli.render import check_output, print_as, save, show
        from devinterp.store.reading.open import open as open_store

        check_output(_output)
        if _json and _csv:
            raise InvalidInputError("`--json` and `--csv` exclude each other: `--output` writes another form beside.")
        tree = open_store(_store, group=_group)
        result = getattr(tree.slt, analysis.name)(**given)
        written = result if _output is None else save(result, _output, name=analysis.name)
        if _json or _csv:
            print_as(written, "json" if _json else "csv", name=analysis.name)
        elif is_diagnosis(result):
            show_findings(result)
        else:
            show(written, title=analysis.name, tokenizer=loaded_tokenizer(_tokenizer), kept=_output is not None)
        if is_diagnosis(result):
            raise SystemExit(exit_status(result))

    store = inspect.Parameter(
        "_store", inspect.Parameter.POSITIONAL_ONLY, annotation=Annotated[STORE, Parameter(name="STORE")]
    )
    parameters = [store, *options, *(each for each in ours if each is not None)]
    return as_command(run, parameters, name=analysis.name, documented=analysis.compute)


def loaded_tokenizer(tokenizer: str | None) -> Tokenizer | None:
    """Return the tokenizer of a model's name; None without one."""
    if tokenizer is None:
        return None
    from devinterp.sources import load_tokenizer

    loaded: Tokenizer = load_tokenizer(tokenizer)
    return loaded


def _keyword(name: str, hint: Any, *flags: str, taken: set[str], default: Any = None) -> inspect.Parameter | None:
    free = [flag for flag in flags if flag.lstrip("-") not in taken]
    if not free:
        return None
    annotation = Annotated[hint, Parameter(name=free)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
