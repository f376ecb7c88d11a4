"""The commands there are: those of the package, those of plugins, and one for every installed analysis."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence

from cyclopts import App, Group, Parameter

from devinterp import optional, plugins
from devinterp.cli.analysis import command
from devinterp.cli.plot import plot_commands
from devinterp.errors import InvalidInputError, PluginError
from devinterp.plugins.builtin_commands import BUILTIN_COMMANDS

#: Option before the command, whose value is a directory with plugins.
PLUGINS_DIR = "--plugins-dir"

#: Commands of packages that are kept in this project's repository and installed only by those who want them.
_ELSEWHERE = {
    "bench": "devinterp-bench",
    "plot": "devinterp-plots",
    "report": "devinterp-view",
    "view": "devinterp-view",
}


def build() -> tuple[App, PluginError | None]:
    """Build the application with all commands.

    Returns
    -------
    app : cyclopts.App
        The application.
    problem : PluginError or None
        Why it has neither analyses nor commands of plugins: ``devinterp plugins`` must work when the plugins do not.
    """
    app = App(
        name="devinterp",
        help="Singular Learning Theory for neural networks: sample the posterior around trained weights, then analyse it.\n\n"
        f"With {PLUGINS_DIR}, every module of a directory is loaded as a plugin.",
        usage=f"Usage: devinterp [{PLUGINS_DIR} DIRECTORY] COMMAND",
        version=_version,
        help_format="rst",
        group_commands=Group("Commands", sort_key=0),
        default_parameter=Parameter(negative_iterable=(), consume_multiple=True),
    )
    problem: PluginError | None = None
    analyses, added, plots = {}, {}, {}
    try:
        analyses, added, plots = plugins.analyses(), plugins.commands(), plugins.plots()
    except PluginError as error:
        problem = error
    # By import path: the modules are imported when the command is used, so that `--help` stays fast.
    for each in (*BUILTIN_COMMANDS.values(), *added.values()):
        app.command(each.function, help=each.summary, **_spelled(each.name))
    group = Group("Analyses of a store", sort_key=1)
    for name, analysis in analyses.items():
        if analysis.has_command:
            app.command(command(analysis), group=group, **_spelled(name))
    if plots:
        app.command(plot_commands(plots, group))
    return app, problem


def check_command(app: App, arguments: Sequence[str], problem: PluginError | None) -> None:
    """Raise for a command that does not exist, or whose module cannot be imported.

    cyclopts would import every command to name those there are.

    Raises
    ------
    PluginError
        If plugins cannot be collected and the command may be one of theirs, or if a plugin's command cannot be imported.
    InvalidInputError
        If there is no such command.
    """
    if not arguments or arguments[0].startswith("-"):
        return
    name = arguments[0]
    if name in app:
        if problem is None:
            _check_import(name.replace("-", "_"))
        return
    if problem is not None:
        raise problem
    if name in _ELSEWHERE:
        raise InvalidInputError(_how_to_install(name, _ELSEWHERE[name]))
    known = [each for each in app if not each.startswith("-")]
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise InvalidInputError(f"there is no command {name!r}{hint} Known: {', '.join(known)}.")


def _check_import(name: str) -> None:
    """Raise unless the function of a plugin's command can be imported."""
    added = plugins.commands()
    if name not in added:
        return
    module, _, function = added[name].function.partition(":")
    try:
        getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        if optional.is_missing(error) and error.name != module.partition(".")[0]:
            distribution = plugins.distribution(added[name])
            raise optional.missing(
                str(error.name), needed_by=f"`devinterp {name}`", distribution=distribution
            ) from error
        raise PluginError(
            f"`devinterp {name}` of {plugins.provider(added[name])} cannot be imported from {added[name].function}: {error}."
        ) from error


def _how_to_install(name: str, distribution: str) -> str:
    """Say why there is no command of a package that is known to have it."""
    for row in plugins.listing():
        if row.provider.distribution == distribution:
            reason = row.error or "it is left out by DEVINTERP_LOAD_PLUGINS"
            return f"`devinterp {name}` is a command of {row.provider}, which is not loaded: {reason}."
    return (
        f"`devinterp {name}` is a command of the package {distribution}, which is not installed: "
        f"{optional.plugin_advice(distribution)}."
    )


def _spelled(name: str) -> dict[str, str | None]:
    """Return how a name is written on the command line: with hyphens, or else as it is."""
    return {"name": name.replace("_", "-"), "alias": name if "_" in name else None}


def _version() -> str:
    import devinterp

    return devinterp.__version__
