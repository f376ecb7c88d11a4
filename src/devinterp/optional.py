"""Optional packages: imported where they are needed; where one is missing, the error says what to run."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, requires
from typing import Any, TypeGuard

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from devinterp.errors import MissingPackageError

PACKAGE = "devinterp"

#: Distributions that are kept in `plugins/` of this project's repository, for those who want them, and what they bring.
PLUGINS = {
    "devinterp-attribution": "influence scores against retrained models (linear datamodelling score and others)",
    "devinterp-bench": "measurements of the kernels' accuracy and speed (`devinterp bench`)",
    "devinterp-icechunk": "stores in Icechunk",
    "devinterp-plots": "pictures (`tree.slt.plot`, `devinterp plot`)",
    "devinterp-structure": "structure in susceptibilities: components, neighbours, clusters of tokens",
    "devinterp-transformerlens": "models of TransformerLens",
    "devinterp-view": "a run as one HTML page or in the browser (`devinterp report`, `devinterp view`)",
}


def require(module: str, *, needed_by: str = "this") -> Any:
    """Import an optional module.

    Parameters
    ----------
    module : str
        Name of the module, such as ``"datasets"``.
    needed_by : str, default: "this"
        What cannot go on without it, for the message.

    Returns
    -------
    module
        The module.

    Raises
    ------
    MissingPackageError
        If it is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing(error.name or module, needed_by=needed_by) from error


@contextmanager
def explained(*, needed_by: str, distribution: str = PACKAGE) -> Iterator[None]:
    """Raise an error that says what to install where a block imports a package that is not there.

    Parameters
    ----------
    needed_by : str
        What cannot go on without it, for the message.
    distribution : str, default: "devinterp"
        The installed distribution whose code runs: it says which versions it takes.

    Raises
    ------
    MissingPackageError
        In place of a ``ModuleNotFoundError``. One of a module within a package that is installed passes: it is a mistake.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if not is_missing(error):
            raise
        raise missing(str(error.name), needed_by=needed_by, distribution=distribution) from error


def is_missing(error: BaseException) -> TypeGuard[ModuleNotFoundError]:
    """Say whether an error is that of a package that is not installed."""
    return isinstance(error, ModuleNotFoundError) and bool(error.name) and not is_installed(str(error.name))


def is_installed(module: str) -> bool:
    """Say whether the package that a module is in can be imported."""
    try:
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    except (ImportError, ValueError):  # blocked by an entry of None in `sys.modules`
        return False


def missing(module: str, *, needed_by: str = "this", distribution: str = PACKAGE) -> MissingPackageError:
    """Return the error for a package that is not installed.

    Parameters
    ----------
    module : str
        Name of the module that cannot be imported.
    needed_by : str, default: "this"
        What cannot go on without it.
    distribution : str, default: "devinterp"
        Whose requirement it is.
    """
    command = install_command([requirement_of(module, distribution)])
    return MissingPackageError(
        f"{needed_by} needs the package {module.partition('.')[0]!r}, which is not installed: `{command}`."
    )


def requirement_of(module: str, distribution: str = PACKAGE) -> str:
    """Return the requirement by which a distribution, or else this package, asks for a module's package.

    Parameters
    ----------
    module : str
        Name of the module.
    distribution : str, default: "devinterp"
        Name of the installed distribution.

    Returns
    -------
    str
        Such as ``"datasets>=3"``; the name of the package where nobody says which versions.
    """
    name = canonicalize_name(module.partition(".")[0])
    for each in (distribution, PACKAGE):
        for requirement in requirements(each):
            if canonicalize_name(requirement.name) == name:
                return f"{requirement.name}{requirement.specifier}"
    return name


def requirements(distribution: str) -> list[Requirement]:
    """Return what an installed distribution requires, its extras included; nothing of one that is not installed."""
    try:
        return [Requirement(text) for text in requires(distribution) or ()]
    except PackageNotFoundError:
        return []


def install_command(wanted: list[str]) -> str:
    """Return the command that installs some requirements."""
    return "pip install " + " ".join(f'"{each}"' if set(each) & set("<>=!~[; ") else each for each in wanted)


def plugin_command(distribution: str) -> str:
    """Return the command that installs one of `PLUGINS`, in the repository: none of them is on PyPI."""
    return f"pip install -e plugins/{distribution}"


def plugin_advice(distribution: str) -> str:
    """Return for a message how to install one of `PLUGINS`."""
    return f"`{plugin_command(distribution)}` in this project's repository"
