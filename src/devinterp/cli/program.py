"""One call of ``devinterp``: what its words mean, what it says when it fails, and its exit code."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cyclopts import CycloptsError
from rich.console import Console

from devinterp import optional, plugins
from devinterp.cli.app import PLUGINS_DIR, build, check_command
from devinterp.errors import CalibrationRefused, DevinterpError, InvalidInputError, PluginWarning

#: Exit codes: what was asked cannot be done; something failed that should not have; a calibration recommends nothing.
USAGE, FAILURE, INTERRUPTED, REFUSED = 2, 1, 130, 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: those of the process.

    Raises
    ------
    SystemExit
        Always: with 0, with 2 when what was asked cannot be done, with 1 when something failed that should not have, with 3
        when a calibration recommends nothing; commands have further codes of their own.
    """
    if not sys.stderr.isatty():
        # Libraries that load models draw bars wherever they are; read when they are imported, which is later.
        os.environ.setdefault("TQDM_DISABLE", "1")
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; what goes wrong is said on the standard error stream."""
    errors = Console(stderr=True, soft_wrap=True)
    try:
        needed = optional.explained(needed_by="this command")
        with needed, _short_warnings(errors), _plugins_directory(arguments) as command:
            app, problem = build()
            check_command(app, command, problem)
            app(command, exit_on_error=False, error_console=errors, result_action="return_none")
    except CycloptsError:  # printed by cyclopts already
        return USAGE
    except CalibrationRefused as refusal:
        errors.print("[bold red]refused:[/]", _plain(str(refusal)), highlight=False, markup=True)
        return REFUSED
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


@contextmanager
def _plugins_directory(arguments: Sequence[str]) -> Iterator[Sequence[str]]:
    """Load plugins from the directory of a leading ``--plugins-dir``; yield the arguments after it.

    It is put into the environment, so that a run's worker processes load them, too. It is read before there are commands,
    because plugins add some.
    """
    first, equals, directory = arguments[0].partition("=") if arguments else ("", "", "")
    if first != PLUGINS_DIR:
        yield arguments
        return
    if not equals:
        directory = arguments[1] if len(arguments) > 1 else ""
    if not Path(directory).is_dir() or not directory:
        raise InvalidInputError(f"`{PLUGINS_DIR}` must be followed by a directory with plugins, got {directory!r}.")
    before = os.environ.get(plugins.DIRECTORY)
    os.environ[plugins.DIRECTORY] = directory
    plugins.reset()
    try:
        yield arguments[1 if equals else 2 :]
    finally:
        plugins.reset()
        if before is None:
            del os.environ[plugins.DIRECTORY]
        else:
            os.environ[plugins.DIRECTORY] = before


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
