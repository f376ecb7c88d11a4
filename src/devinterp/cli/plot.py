"""``devinterp plot NAME STORE -o FILE``: every installed plot as a command, its options from the signature."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Group, Parameter
from rich.console import Console

from devinterp.cli.analysis import GROUP, STORE, TOKENIZER, loaded_tokenizer
from devinterp.cli.options import as_command, options_of
from devinterp.errors import InvalidInputError
from devinterp.overview import summary_of
from devinterp.types import Plot

_OUTPUT = Annotated[
    Path | None, Parameter(name=["--output", "-o"], help="File to write: .png, .svg or .pdf; default: NAME.png.")
]
#: Options that name what to draw on.
_CANVAS = ("ax", "axes", "figure")
#: Kinds of files that are written.
_SUFFIXES = (".png", ".svg", ".pdf")


def plot_commands(plots: dict[str, Plot], group: Group) -> App:
    """Return the command ``plot`` with one command below it for each plot.

    Parameters
    ----------
    plots : dict of str to Plot
        By name.
    group : cyclopts.Group
        Under which heading the help of the program lists it.
    """
    app = App(name="plot", group=group, help="Draw a store: one of the pictures below, into a file.", help_format="rst")
    app.default_parameter = Parameter(negative_iterable=(), consume_multiple=True)
    for name, plot in plots.items():
        hyphened = name.replace("_", "-")
        app.command(command(plot), name=hyphened, help=summary_of(plot.draw), alias=name if "_" in name else None)
    return app


def command(plot: Plot) -> Callable[..., None]:
    """Return the command of a plot: a function whose signature and docstring cyclopts reads.

    Options that cannot be written on a command line are left out; a tokenizer is given by the name of its model.

    Parameters
    ----------
    plot : Plot
        Any plot.

    Returns
    -------
    callable
        ``run(store, **options)``, which writes the picture.
    """
    has_tokenizer = "tokenizer" in inspect.signature(plot.draw).parameters
    options = [each for each in options_of(plot.draw, skip=1) if each.name not in ("tokenizer", *_CANVAS)]
    taken = {option.name for option in options}
    extra = {"_group": GROUP, "_output": _OUTPUT, **({"tokenizer": TOKENIZER} if has_tokenizer else {})}

    def run(_store: str, *, _group: str | None = None, _output: Path | None = None, **given: Any) -> None:
        from devinterp.store.reading.open import open as open_store

        path = _checked(_output or Path(f"{plot.name}.png"))
        tree = open_store(_store, group=_group)
        if "tokenizer" in given:
            given["tokenizer"] = loaded_tokenizer(given["tokenizer"])
        figure = getattr(tree.slt.plot, plot.name)(**given)
        if not hasattr(figure, "savefig"):
            figure = figure.get_figure()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        Console().print(f"Wrote {path}.", highlight=False, markup=False, soft_wrap=True)

    store = inspect.Parameter(
        "_store", inspect.Parameter.POSITIONAL_ONLY, annotation=Annotated[STORE, Parameter(name="STORE")]
    )
    named = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
        for name, hint in extra.items()
        if name.strip("_") not in taken
    ]
    return as_command(run, [store, *options, *named], name=plot.name, documented=plot.draw)


def _checked(path: Path) -> Path:
    """Return the path of a picture to be written.

    Raises
    ------
    InvalidInputError
        If its name ends otherwise than those of pictures.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise InvalidInputError(f"`--output` (={str(path)!r}) must end in one of {', '.join(_SUFFIXES)}.")
    return path
