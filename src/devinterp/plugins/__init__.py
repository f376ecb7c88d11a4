"""The plugin host: loads what is installed on first use, and hands out analyses, plots, kernels, adapters and the like.

A plugin is a module (or any object) with functions marked by `devinterp.hookimpl`, named by an entry point of the group
``devinterp``; the built-in parts come this way too. `discovery` lists what there is to load; `host` loads it, one plugin
at a time, and asks its hooks; the functions here answer by name. A plugin that cannot be imported is left out with a
`devinterp.errors.PluginWarning`, and the rest work. Environment variables, read on first use, steer it:

``DEVINTERP_PLUGINS_DIR``
    A directory. Every module and package in it is a plugin, too, unless its name begins with an underscore: a plugin can
    be tried before it is packaged.
``DEVINTERP_LOAD_PLUGINS``
    Comma-separated names of distributions (``my-plugin``), entry points (``llc``) or both (``my-plugin:llc``). Only
    these are loaded, built-ins included, so ``devinterp,my-plugin`` keeps the built-ins. A name after a minus sign is
    left out instead: ``-my-plugin`` loads everything else. A file of the directory goes by its name.
``DEVINTERP_STRICT_PLUGINS``
    With ``1``, a plugin that cannot be loaded raises `devinterp.errors.PluginError`.

``tree.slt`` loads all plugins, those of kernels, recorders and adapters too: a module named by an entry point must not import
torch, transformers or anything as slow when it is imported, but inside its functions (`devinterp.hookspecs`).
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from devinterp import optional
from devinterp.errors import InvalidInputError, PluginError
from devinterp.plugins.discovery import BLOCKED, BROKEN, DIRECTORY, LOADED, Provider
from devinterp.plugins.host import Host, PluginInfo, describe, names_of
from devinterp.types import Analysis, Check, Command, Kernel, ModelAdapter, Plot, Recorder

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "BLOCKED",
    "BROKEN",
    "DIRECTORY",
    "LOADED",
    "PluginInfo",
    "Provider",
    "adapter_for",
    "adapters",
    "analyses",
    "checks",
    "commands",
    "distribution",
    "kernel",
    "kernels",
    "listing",
    "plots",
    "provider",
    "recorder",
    "recorders",
    "reset",
]

_host: Host | None = None
_loading = False
_lock = threading.RLock()


def analyses() -> dict[str, Analysis]:
    """Return the installed analyses by name.

    Raises
    ------
    PluginError
        If a plugin misspells a hook or returns something else, or if two provide the same name; the message names the
        distributions. With ``DEVINTERP_STRICT_PLUGINS=1`` also if one cannot be loaded; otherwise that is a
        `PluginWarning`.
    """
    return _collect("analyses")


def checks() -> dict[str, Check]:
    """Return the installed checks of ``tree.slt.diagnose()`` by name; raises as `analyses`."""
    return _collect("checks")


def plots() -> dict[str, Plot]:
    """Return the installed plots by name; raises as `analyses`."""
    return _collect("plots")


def kernels() -> dict[str, Kernel]:
    """Return the installed sampling kernels by name, their aliases left out; raises as `analyses`."""
    return _collect("kernels")


def adapters() -> dict[str, ModelAdapter]:
    """Return the installed model adapters by name; raises as `analyses`."""
    return _collect("adapters")


def recorders() -> dict[str, Recorder]:
    """Return the installed recorders by name; raises as `analyses`."""
    return _collect("recorders")


def commands() -> dict[str, Command]:
    """Return the commands of the command line that plugins provide, by name; raises as `analyses`."""
    return _collect("commands")


def kernel(name: str) -> Kernel:
    """Return the sampling kernel of a name or alias.

    Parameters
    ----------
    name : str
        What the user gave as ``sampling_method``.

    Raises
    ------
    InvalidInputError
        If no kernel answers to it; the message lists the known ones with the distribution each comes from.
    """
    known = kernels()
    answering = {alias: each for each in known.values() for alias in names_of(each)}
    if name not in answering:
        raise InvalidInputError(_unknown("sampling_method", name, answering, known.values()))
    return answering[name]


def recorder(name: str) -> Recorder:
    """Return the recorder of a name.

    Parameters
    ----------
    name : str
        What the user gave in ``recorders``.

    Raises
    ------
    InvalidInputError
        If there is none; the message lists the known ones with the distribution each comes from.
    """
    known = recorders()
    if name not in known:
        raise InvalidInputError(_unknown("recorders", name, known, known.values()))
    return known[name]


def adapter_for(model: nn.Module, adapter: str | ModelAdapter | None = None) -> ModelAdapter:
    """Return the adapter that runs a model.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    adapter : str or ModelAdapter, optional
        An adapter, or the name of an installed one. By default every installed adapter is asked whether it is for
        `model`, those that are fallbacks only when no other is.

    Raises
    ------
    InvalidInputError
        If `adapter` names none, or if none or several match; the message lists them.
    """
    if isinstance(adapter, ModelAdapter):
        return adapter
    known = adapters()
    if isinstance(adapter, str):
        if adapter not in known:
            raise InvalidInputError(_unknown("adapter", adapter, known, known.values()))
        return known[adapter]
    if adapter is not None:
        raise InvalidInputError(
            f"`adapter` must be the name or an instance of a ModelAdapter, got {describe(adapter)}."
        )
    for fallback in (False, True):
        matching = [each for each in known.values() if each.fallback == fallback and each.matches(model)]
        if len(matching) > 1:
            raise InvalidInputError(
                f"several adapters match {type(model).__name__}: {_list(matching)}. Choose one, for example with "
                f"`adapter={matching[0].name!r}`."
            )
        if matching:
            return matching[0]
    raise InvalidInputError(
        f"no adapter matches {type(model).__name__}; installed: {_list(known.values())}. Choose one with "
        "`adapter=`, or write one as docs/plugins.md shows."
    )


def provider(obj: Analysis | Check | Plot | Kernel | ModelAdapter | Recorder | Command) -> Provider | None:
    """Return where something that this module handed out comes from, or None for what no plugin provided."""
    return _get_host().provider(obj)


def distribution(obj: Analysis | Check | Plot | Kernel | ModelAdapter | Recorder | Command) -> str:
    """Return the name of the distribution that something comes from; this package's for what no plugin provided."""
    known = provider(obj)
    return optional.PACKAGE if known is None else known.distribution


def listing() -> list[PluginInfo]:
    """Return a row for every plugin, with what it provides; a broken one is a row with its error."""
    with _lock:
        host = _get_host()
        return [host.info(plugin) for plugin in host.plugins]


def reset() -> None:
    """Forget every plugin, so that the next use finds and loads them afresh (for tests)."""
    global _host
    with _lock:
        _host = None


def _get_host() -> Host:
    global _host, _loading
    with _lock:
        if _host is None:
            if _loading:
                raise PluginError("a plugin asked for the installed plugins while they are being loaded; ask later")
            _loading = True
            try:
                _host = Host()
            finally:
                _loading = False
        return _host


def _collect(kind: str) -> dict[str, Any]:
    with _lock:
        host = _get_host()
        host.check()
        return dict(host.collect(kind))


def _unknown(argument: str, name: object, answering: Iterable[str], known: Iterable[Any]) -> str:
    close = difflib.get_close_matches(str(name), list(answering), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"`{argument}` (={name!r}) is not installed{hint} Installed: {_list(known)}."


def _list(objects: Iterable[Any]) -> str:
    """Name objects with their aliases and the distribution each comes from."""
    shown = []
    for obj in objects:
        name, *aliases = names_of(obj)
        alias = f"or {' or '.join(map(repr, aliases))}, " if aliases else ""
        shown.append(f"{name!r} ({alias}from {provider(obj)})")
    return ", ".join(shown) or "none"
