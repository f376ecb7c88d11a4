"""``devinterp calibrate``: the settings of a run from models and data by name, and going on from them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from devinterp.calibration.procedure import calibrate as calibrate_model
from devinterp.calibration.request import KERNELS
from devinterp.calibration.result import Calibration
from devinterp.cli.named_inputs import NamedInputs
from devinterp.cli.options import MODEL, as_command, options_of, pairs_of, value_of
from devinterp.errors import InvalidInputError
from devinterp.store.calibration_store import COMMAND, read_root, write_command

#: Arguments of the command that `devinterp sample` has, too.
SHARED = (
    "model",
    "dataset",
    "observable",
    "length",
    "num_sequences",
    "column",
    "split",
    "weight_restrictions",
    "param_masks",
)

_OWN = {"model", "dataset", "observables", "output_path", "kernels", "loss_fn", "loss_dims", "dry_run"}
_DATASET = Annotated[str, Parameter(help="What is sampled on, as for `devinterp sample`.")]
_OUTPUT = Annotated[
    Path | None, Parameter(name=["--output-path", "-o"], help="Where the short runs are stored, and the result.")
]
_OBSERVABLES = Annotated[
    tuple[str, ...],
    Parameter(
        help="Data whose losses have to be good, too, as name=source or source; may be repeated.", show_default=False
    ),
]
_KERNELS = Annotated[
    tuple[str, ...], Parameter(help="Kernel to try, such as baoab; may be repeated.", show_default="baoab, sgld")
]
_KERNEL_OPTIONS = Annotated[
    tuple[str, ...],
    Parameter(help="Option of the only --kernel, as name=value; may be repeated.", show_default=False),
]


def calibrate_named(
    *,
    model: MODEL,
    dataset: _DATASET,
    output_path: _OUTPUT = None,
    observable: _OBSERVABLES = (),
    length: Annotated[int, Parameter(help="Tokens of a sequence.")] = 128,
    num_sequences: Annotated[int, Parameter(help="Sequences to take of each source, from its start.")] = 1024,
    column: Annotated[str, Parameter(help="Where the text is, in a .jsonl file or a dataset.")] = "text",
    split: Annotated[str, Parameter(help="Split of a dataset on the hub.")] = "train",
    kernel: _KERNELS = (),
    kernel_option: _KERNEL_OPTIONS = (),
    dry_run: Annotated[
        bool, Parameter(help="Only measure, and list the settings that would be run.", negative="")
    ] = False,
    **settings: Any,
) -> None:
    """Calibrate on a model and data that are given by name, and print what was tried and what is recommended.

    `settings` are arguments of `devinterp.calibrate`; the others are documented as options of the command.
    """
    console = Console()
    if output_path is None and not dry_run:
        raise InvalidInputError(
            "`--output-path` says where the short runs are stored; with `--dry-run` there are none."
        )
    options = {name: value_of(text) for name, text in pairs_of(kernel_option, "kernel-option").items()}
    if options and len(kernel) != 1:
        raise InvalidInputError("`--kernel-option` needs exactly one `--kernel`.")
    named = NamedInputs(model, dataset, observable, length, num_sequences, column, split)
    inputs = named.read(console)
    result = calibrate_model(
        inputs.model,
        inputs.dataset,
        inputs.observables,
        output_path=output_path,
        dry_run=dry_run,
        kernels=dict.fromkeys(kernel, options) if kernel else KERNELS,
        **settings,
    )
    console.print(str(result), highlight=False, soft_wrap=True, markup=False)
    if output_path is None:
        return
    arguments = {
        **named.noted(),
        **{name: settings[name] for name in SHARED if settings.get(name) is not None},
    }
    write_command(output_path, arguments)
    console.print(f"Wrote {output_path}. Go on with:", highlight=False, soft_wrap=True)
    console.print(f"  devinterp sample --from {output_path} -o run.zarr", highlight=False, soft_wrap=True)


def recommended_arguments(location: Path) -> dict[str, Any]:
    """Return the arguments of `devinterp sample` that a calibration's store recommends, with the names of model and data.

    Raises
    ------
    StoreError
        If the store holds no finished calibration, or one that was made from Python, whose model and data have no names.
    CalibrationRefused
        If it recommends none.
    """
    settings = Calibration.open(location).settings
    arguments = read_root(location).get(COMMAND)
    named = dict(arguments) if isinstance(arguments, Mapping) else {}
    kernel_options = settings.pop("sampling_method_kwargs")
    named["kernel_option"] = [f"{name}={value}" for name, value in kernel_options.items()]
    # JSON has no tuples.
    return {name: tuple(value) if isinstance(value, list) else value for name, value in {**named, **settings}.items()}


def _command() -> Any:
    """Return the command: the parameters above, then those of the function with their own documentation."""
    hints = inspect.get_annotations(calibrate_named, eval_str=True)
    own = [
        each.replace(annotation=hints[each.name])
        for each in inspect.signature(calibrate_named).parameters.values()
        if each.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    settings = [each for each in options_of(calibrate_model, skip=3) if each.name not in _OWN]
    parameters = sorted([*own, *settings], key=lambda each: each.default is not inspect.Parameter.empty)
    return as_command(calibrate_named, parameters, name="calibrate", documented=calibrate_model)


calibrate = _command()
