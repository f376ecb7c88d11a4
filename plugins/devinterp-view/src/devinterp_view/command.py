"""``devinterp report STORE -o report.html``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from devinterp import schema
from devinterp.cli.analysis import GROUP, STORE
from devinterp_view.budget import Limits
from devinterp_view.passages import parse
from devinterp_view.recorded import recorded_task, tokenizer_of
from devinterp_view.report import NUM_RUNS, check_output
from devinterp_view.report import report as write_report

_OUTPUT = Annotated[Path, Parameter(name=["--output", "-o"], help="The HTML file to write.")]
_TOKENIZER = Annotated[
    str | None,
    Parameter(
        help="Whose tokens the sequences are: `smollm2`, a directory, or a model on the HuggingFace hub; without it token ids "
        "are shown, but for a run of the bundled model."
    ),
]
_PASSAGES = Annotated[
    tuple[str, ...],
    Parameter(
        help="Sequences to show, as `name`, `name:3` or `name:0-2,5`; default: the first ones of every observable.",
        show_default=False,
        consume_multiple=True,
    ),
]
_RESTRICTION = Annotated[str | None, Parameter(help="Weight restriction of influences; default: full, or the first.")]
_TASK = Annotated[
    str | None,
    Parameter(help="The observable made of the data that the run was sampled on, for susceptibilities."),
]
_DEFAULT = Limits()


def report(
    store: STORE,
    /,
    *,
    output: _OUTPUT = Path("report.html"),
    group: GROUP = None,
    tokenizer: _TOKENIZER = None,
    passages: _PASSAGES = (),
    restriction: _RESTRICTION = None,
    sampling_task: _TASK = None,
    num_passages: Annotated[int, Parameter(help="Sequences of each observable to show.")] = _DEFAULT.passages,
    num_tokens: Annotated[int, Parameter(help="Tokens of all passages together.")] = _DEFAULT.tokens,
    num_candidates: Annotated[
        int, Parameter(help="Sequences of each observable in which the strongest influences are looked for.")
    ] = _DEFAULT.candidates,
    top_k: Annotated[int, Parameter(help="Strongest positive and negative influences of each token.")] = _DEFAULT.top_k,
    num_runs: Annotated[
        int, Parameter(help="Of the runs of a study, how many have a page; all are listed.")
    ] = NUM_RUNS,
    overwrite: Annotated[bool, Parameter(help="Write over an earlier report.", negative="")] = False,
) -> None:
    """Write what a run says as one HTML file: verdict, traces, coefficients, coloured tokens and their influences.

    Of a study it lists all runs, draws coefficients along what varies, and has the page of each run after that. The file
    needs no network and runs nothing but its own script. Its size is bounded: it says what was left out.
    """
    from devinterp.store.reading.open import open as open_store

    check_output(output, overwrite=overwrite)
    limits = Limits(passages=num_passages, tokens=num_tokens, candidates=num_candidates, top_k=top_k)
    chosen = parse(passages) or None
    tree = open_store(store, group=group)
    run = next(iter(schema.runs(tree).values()), tree)
    decoder, note = tokenizer_of(run, tokenizer)
    path = write_report(
        tree,
        output,
        overwrite=overwrite,
        tokenizer=decoder,
        text_note=note,
        passages=chosen,
        restriction=restriction,
        sampling_task=sampling_task if sampling_task is not None else recorded_task(run),
        limits=limits,
        num_runs=num_runs,
        source=store if group is None else f"{store}, {group}",
    )
    size = path.stat().st_size / 2**20
    Console().print(f"Wrote {path} ({size:.1f} MiB).", highlight=False, markup=False, soft_wrap=True)
    if note:
        Console().print(note, highlight=False, markup=False, soft_wrap=True)
