"""Finding plugins: entry points of installed distributions, and the modules of a plugins directory. Nothing is loaded yet."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

from devinterp.errors import PluginError
from devinterp.hookspecs import PROJECT

LOADED, BLOCKED, BROKEN = "loaded", "blocked", "broken"

#: Environment variable that names a directory whose modules are loaded as plugins.
DIRECTORY = "DEVINTERP_PLUGINS_DIR"


@dataclass(frozen=True, slots=True)
class Provider:
    """The installed distribution and entry point that something comes from, or the file of a plugins directory.

    Parameters
    ----------
    distribution, version : str
        Name and version of the installed distribution; of a file its name, and "in" its directory.
    entry_point : str
        Name of its entry point in the group ``devinterp``; of a file its name as a module.
    """

    distribution: str
    version: str
    entry_point: str

    def __str__(self) -> str:
        """Return the distribution and its version, as messages name them."""
        return f"{self.distribution} {self.version}"


@dataclass(slots=True)
class Plugin:
    """A plugin that was found, how to load it, and what became of it."""

    module: str
    load: Callable[[], object]
    provider: Provider
    status: str = LOADED
    error: Exception | None = None
    misspelt: str | None = None

    @property
    def key(self) -> str:
        """Return the name that no other plugin has."""
        return f"{self.provider.distribution}:{self.provider.entry_point}"

    def __str__(self) -> str:
        """Return how messages name the plugin."""
        return f"plugin {self.provider.entry_point!r} ({self.module}) of {self.provider}"


def find_plugins() -> list[Plugin]:
    """Return the plugins in the order they are loaded: this package's own, installed ones, those of the directory.

    ``DEVINTERP_LOAD_PLUGINS`` blocks some.

    Raises
    ------
    PluginError
        If an environment variable names a plugin or a directory that is not there.
    """
    plugins = sorted(_installed(), key=lambda each: (each.provider.distribution != PROJECT, each.key))
    if directory := os.environ.get(DIRECTORY):
        plugins += _in_directory(Path(directory).expanduser().resolve())
    _block(plugins)
    return plugins


def _installed() -> Iterator[Plugin]:
    for entry_point in entry_points(group=PROJECT):
        dist = entry_point.dist
        name, version = (dist.name, dist.version) if dist else ("an unknown distribution", "of unknown version")
        yield Plugin(entry_point.value, entry_point.load, Provider(name, version, entry_point.name))


def _in_directory(directory: Path) -> Iterator[Plugin]:
    if not directory.is_dir():
        raise PluginError(f"{DIRECTORY} (='{directory}') must be a directory with plugins, and there is none.")
    for path in sorted(directory.iterdir()):
        file = path / "__init__.py" if path.is_dir() else path
        if file.suffix == ".py" and file.is_file() and not path.name.startswith(("_", ".")):
            name = path.name.removesuffix(".py")
            yield Plugin(name, partial(_load, name, file, directory), Provider(path.name, f"in {directory}", name))


def _load(name: str, file: Path, directory: Path) -> ModuleType:
    """Import a module of the plugins directory, which becomes the last entry of `sys.path`."""
    if str(directory) not in sys.path:
        sys.path.append(str(directory))
    importlib.invalidate_caches()  # the file may be younger than the last look at its directory
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None or Path(spec.origin).resolve() != file.resolve():
        raise PluginError(f"{file} would hide the module {name!r} ({spec and spec.origin}): give it another name")
    return importlib.import_module(name)


def _block(plugins: Sequence[Plugin]) -> None:
    """Mark the plugins that ``DEVINTERP_LOAD_PLUGINS`` leaves out."""
    listed = [name.strip() for name in os.environ.get("DEVINTERP_LOAD_PLUGINS", "").split(",") if name.strip()]
    allowed = {_normal(name) for name in listed if not name.startswith("-")}
    barred = {_normal(name[1:]) for name in listed if name.startswith("-")}
    known: set[str] = set()
    for plugin in plugins:
        names = {_normal(name) for name in (plugin.provider.distribution, plugin.provider.entry_point, plugin.key)}
        known |= names
        if names & barred or (allowed and not names & allowed):
            plugin.status = BLOCKED
    if unknown := sorted(allowed - known):
        raise PluginError(
            f"DEVINTERP_LOAD_PLUGINS names {', '.join(map(repr, unknown))}, but no such distribution or entry point "
            f"is installed. Installed: {', '.join(plugin.key for plugin in plugins) or 'none'}."
        )


def _normal(name: str) -> str:
    """Spell a distribution's name as packaging tools compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
