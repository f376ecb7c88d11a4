"""``devinterp sample``: the sampling function with models and data by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import xarray as xr
from cyclopts import Parameter
from rich.console import Console

from devinterp.cli.named_inputs import NamedInputs
from devinterp.cli.options import MODEL, as_command, options_of, pairs_of, value_of
from devinterp.errors import BrokenChainsError, InvalidInputError
from devinterp.runs import EAGER_BYTES
from devinterp.sampling.estimate import DryRun
from devinterp.slt.sampling import sample as sample_model

#: Key of the run's notes under which the arguments of the command are kept, for `devinterp resume`.
COMMAND = "devinterp sample"

# Arguments that say how to run and not what; they are not repeated when a run goes on.
_NOT_NOTED = ("progress", "repair", "workers", "dry_run")

# Arguments of `sample` that are other options of the command, or that need Python objects.
_OWN = {
    "model",
    "dataset",
    "observables",
    "output_path",
    "sampling_method_kwargs",
    "storage_options",
    "loss_fn",
    "loss_dims",
    "save_metrics",
    "notes",
    "recorders",
}


# What must be given where no calibration says it.
_NEEDED = ("model", "dataset", "lr", "n_beta", "output_path")

# Types of the command's own options, with their help.
_DATASET = Annotated[
    str,
    Parameter(
        help="What to sample on: `prose`, `code`, a text or .jsonl file, a directory of text files, token ids "
        "(sequence, token) in an .npy file, or a dataset on the HuggingFace hub (name or name:config)."
    ),
]
_OUTPUT = Annotated[Path, Parameter(name=["--output-path", "-o"], help="Where the store is written.")]
_OBSERVABLES = Annotated[
    tuple[str, ...],
    Parameter(
        help="Data whose losses are recorded at every draw, as name=source or source; may be repeated.",
        show_default=False,
    ),
]
_FROM = Annotated[
    Path | None,
    Parameter(
        name="--from",
        help="Store of `devinterp calibrate`: model, data and settings are those of its recommendation, where they are not "
        "given. Without it --model, --dataset, --lr and --n-beta are needed.",
    ),
]
_KERNEL_OPTIONS = Annotated[
    tuple[str, ...],
    Parameter(help="Option of the sampling method, as name=value; may be repeated.", show_default=False),
]
_METRICS = Annotated[
    tuple[str, ...],
    Parameter(help="Record this metric of every step, such as mala_acceptance; may be repeated.", show_default=False),
]
_RECORDERS = Annotated[
    tuple[str, ...],
    Parameter(
        help='Record this of the model at every draw, as name or name={JSON}, such as logits, sketch={"size": 64}, '
        "weight_norms or full_loss; may be repeated.",
        show_default=False,
    ),
]


def sample_named(
    *,
    model: MODEL,
    dataset: _DATASET,
    output_path: _OUTPUT,
    observable: _OBSERVABLES = (),
    length: Annotated[int, Parameter(help="Tokens of a sequence.")] = 128,
    num_sequences: Annotated[int, Parameter(help="Sequences to take of each source, from its start.")] = 1024,
    column: Annotated[str, Parameter(help="Where the text is, in a .jsonl file or a dataset.")] = "text",
    split: Annotated[str, Parameter(help="Split of a dataset on the hub.")] = "train",
    kernel_option: _KERNEL_OPTIONS = (),
    save_metrics: Annotated[
        bool, Parameter(help="Record norms and angles of the parts of every step.", negative=())
    ] = False,
    metric: _METRICS = (),
    recorder: _RECORDERS = (),
    **settings: Any,
) -> None:
    """Sample a model and data that are given by name, and print what to do next.

    The arguments are noted in the run's provenance, so that `devinterp resume` can repeat them. `settings` are arguments of
    `devinterp.slt.sampling.sample`; the others are documented as options of the command.
    """
    console = Console()
    given: dict[str, Any] = {
        "model": model,
        "dataset": dataset,
        "observable": observable,
        "length": length,
        "num_sequences": num_sequences,
        "column": column,
        "split": split,
        "kernel_option": kernel_option,
        "save_metrics": save_metrics,
        "metric": metric,
        "recorder": recorder,
    }
    result = run_named(console, output_path, settings, **given)
    if isinstance(result, DryRun):
        console.print(result)
        return
    _show_llc(console, result)
    console.print(f"Wrote {output_path}. Go on with:", highlight=False, soft_wrap=True)
    console.print(f"  devinterp info {output_path}\n  devinterp llc {output_path}", highlight=False, soft_wrap=True)


def run_named(
    console: Console,
    output_path: Path,
    settings: Mapping[str, Any],
    *,
    model: str,
    dataset: str,
    observable: Sequence[str],
    length: int,
    num_sequences: int,
    column: str,
    split: str,
    kernel_option: Sequence[str],
    save_metrics: bool = False,
    metric: Sequence[str] = (),
    recorder: Sequence[str] = (),
) -> xr.DataTree | DryRun:
    """Sample a model and data that are given by name, as `sample_named` does, and print nothing.

    Parameters
    ----------
    console : rich.console.Console
        Says what is being loaded.
    output_path : pathlib.Path
        Where the store is written.
    settings : mapping
        Arguments of `devinterp.slt.sampling.sample`.
    model, dataset, observable, length, num_sequences, column, split, kernel_option, save_metrics, metric, recorder
        As of `sample_named`.
    """
    named = NamedInputs(model, dataset, observable, length, num_sequences, column, split)
    options = {name: value_of(text) for name, text in pairs_of(kernel_option, "kernel-option").items()}
    inputs = named.read(console)
    arguments = {
        **named.noted(),
        "kernel_option": list(kernel_option),
        "recorder": list(recorder),
        "settings": {name: value for name, value in settings.items() if name not in _NOT_NOTED},
    }
    return sample_model(
        inputs.model,
        inputs.dataset,
        inputs.observables,
        output_path=output_path,
        sampling_method_kwargs=options or None,
        save_metrics=metric or save_metrics,
        recorders=_recorders(recorder) or None,
        notes={COMMAND: arguments},
        **settings,
    )


def _recorders(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return recorders and their settings, from names alone or name={JSON}.

    Raises
    ------
    InvalidInputError
        If one looks otherwise.
    """
    recorders: dict[str, dict[str, Any]] = {}
    for name, text in pairs_of(given, "recorder", alone=True).items():
        settings = {} if text == name else value_of(text)
        if not isinstance(settings, dict):
            raise InvalidInputError(
                f"`--recorder` (={name}={text}) must be a name, or a name with settings as JSON: "
                "--recorder 'sketch={\"size\": 64}'."
            )
        recorders[name] = settings
    return recorders


def sample_given(*, from_: _FROM = None, **given: Any) -> None:
    """Sample a model and data that are given by name, or those that a calibration recommends settings for.

    Raises
    ------
    InvalidInputError
        If neither gives an argument that is needed.
    """
    if from_ is not None:
        from devinterp.cli.calibrate import recommended_arguments

        given = {**recommended_arguments(from_), **given}
    missing = [name for name in _NEEDED if given.get(name) is None]
    if missing:
        option = "--" + missing[0].replace("_", "-")
        reason = (
            "or `--from` a calibration" if from_ is None else f"{from_} was made from Python and has no name for it"
        )
        raise InvalidInputError(f"`devinterp sample` needs `{option}`: {reason}.")
    sample_named(**given)


def _show_llc(console: Console, tree: xr.DataTree) -> None:
    """Print the learning coefficients of a run of which all chains finished and that is read in a moment."""
    from devinterp.analyses.llc import compute_llc
    from devinterp.cli.llc_summary import llc_summary

    if sum(array.nbytes for node in tree.subtree for array in node.dataset.data_vars.values()) > EAGER_BYTES:
        return
    try:
        result = compute_llc(tree)
    except BrokenChainsError:  # of which `sample` has warned
        return
    console.print(*llc_summary(result), sep="\n", highlight=False)


def _command() -> Any:
    """Return the command: the parameters above, then those of the sampling function with their own documentation."""
    own = []
    for function in (sample_given, sample_named):
        hints = inspect.get_annotations(function, eval_str=True)
        own += [
            each.replace(annotation=hints[each.name])
            for each in inspect.signature(function).parameters.values()
            if each.kind is not inspect.Parameter.VAR_KEYWORD
        ]
    settings = [each for each in options_of(sample_model, skip=3) if each.name not in _OWN]
    parameters = sorted([*own, *settings], key=lambda each: each.name not in _NEEDED)
    optional = [_may_be_left_out(each) if each.name in _NEEDED else each for each in parameters]
    return as_command(sample_given, optional, name="sample", documented=sample_model)


def _may_be_left_out(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return a parameter without which `sample_given` looks elsewhere."""
    return parameter.replace(annotation=parameter.annotation | None, default=None)


sample = _command()
