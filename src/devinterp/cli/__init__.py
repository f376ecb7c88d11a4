"""The command line: ``devinterp plugins | info | sample | masks | quickstart``, and every installed analysis as a command."""

from __future__ import annotations

import difflib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cyclopts import App, CycloptsError, Group, Parameter
from rich.console import Console

from devinterp import plugins
from devinterp.cli.analysis import command
from devinterp.errors import DevinterpError, InvalidInputError, PluginError, PluginWarning

#: Exit codes: what was asked cannot be done; something failed that should not have.
USAGE, FAILURE, INTERRUPTED = 2, 1, 130

# By import path: the modules are imported when the command is used, so that `--help` stays fast.
_COMMANDS = {
    "quickstart": (
        "devinterp.cli.quickstart:quickstart",
        "Sample a real language model and show its learning coefficient.",
    ),
    "sample": ("devinterp.cli.sampling:sample", "Sample around the weights of a HuggingFace model into a store."),
    "masks": ("devinterp.cli.masks:masks", "Show which weights of a model a restriction such as l0h1 selects."),
    "info": (
        "devinterp.cli.info:info",
        "Show what a store holds, how far its chains are, and what can be asked of it.",
    ),
    "bench": (
        "devinterp.cli.bench:bench",
        "Measure how close each kernel comes to learning coefficients that are known.",
    ),
    "resume": ("devinterp.cli.resume:resume", "Go on with a run that `devinterp sample` began, or make it longer."),
    "check": ("devinterp.cli.check:check", "Verify a store from end to end, and name what is damaged."),
    "plugins": ("devinterp.cli.info:show_plugins", "List the installed plugins and what each provides."),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: those of the process.

    Raises
    ------
    SystemExit
        Always: with 0, with 2 when what was asked cannot be done, with 1 when something failed that should not have.
    """
    if not sys.stderr.isatty():
        # Libraries that load models draw bars wherever they are; read when they are imported, which is later.
        os.environ.setdefault("TQDM_DISABLE", "1")
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; what goes wrong is said on the standard error stream."""
    errors = Console(stderr=True, soft_wrap=True)
    try:
        with _short_warnings(errors):
            app, problem = build()
            _check_command(app, arguments, problem)
            app(arguments, exit_on_error=False, error_console=errors, result_action="return_none")
    except CycloptsError:  # printed by cyclopts already
        return USAGE
    except DevinterpError as error:
        errors.print("[bold red]error:[/]", _plain(str(error)), highlight=False, markup=True)
        return USAGE
    except KeyboardInterrupt:
        errors.print("interrupted", highlight=False)
        return INTERRUPTED
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception:
        traceback.print_exc()
        return FAILURE
    return 0


def build() -> tuple[App, PluginError | None]:
    """Build the application with a command for every analysis.

    Returns
    -------
    app : cyclopts.App
        The application.
    problem : PluginError or None
        Why it has no analyses: ``devinterp plugins`` must work when the plugins do not.
    """
    app = App(
        name="devinterp",
        help="Singular Learning Theory for neural networks: sample the posterior around trained weights, then analyse it.",
        version=_version,
        help_format="rst",
        group_commands=Group("Commands", sort_key=0),
        default_parameter=Parameter(negative_iterable=()),
    )
    analyses = Group("Analyses of a store", sort_key=1)
    for name, (path, summary) in _COMMANDS.items():
        app.command(path, name=name, help=summary)
    try:
        installed = plugins.analyses()
    except PluginError as error:
        return app, error
    for name, analysis in installed.items():
        app.command(command(analysis), name=name.replace("_", "-"), alias=name if "_" in name else None, group=analyses)
    return app, None


def _check_command(app: App, arguments: Sequence[str], problem: PluginError | None) -> None:
    """Raise for a command that does not exist; cyclopts would import every command to say so."""
    if not arguments or arguments[0].startswith("-") or arguments[0] in app:
        return
    if problem is not None:
        raise problem
    known = [name for name in app if not name.startswith("-")]
    close = difflib.get_close_matches(arguments[0], known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise InvalidInputError(f"there is no command {arguments[0]!r}{hint} Known: {', '.join(known)}.")


def _version() -> str:
    import devinterp

    return devinterp.__version__


@contextmanager
def _short_warnings(console: Console) -> Iterator[None]:
    """Show a plugin that was left out as one line, not as a line of this package's source."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *args: object, **options: object) -> None:
            if issubclass(category, PluginWarning):
                console.print("[yellow]warning:[/]", _plain(str(message)), highlight=False)
            else:
                usual(message, category, *args, **options)  # type: ignore[arg-type]

        warnings.showwarning = show
        yield


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
