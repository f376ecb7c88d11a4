"""Loading plugins and asking their hooks; `devinterp.plugins` is what the rest of the package uses."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import pluggy

from devinterp import hookspecs, optional
from devinterp.errors import PluginError, PluginWarning
from devinterp.hookspecs import PROJECT
from devinterp.plugins.builtin_commands import BUILTIN_COMMANDS
from devinterp.plugins.discovery import BROKEN, LOADED, Plugin, Provider, find_plugins
from devinterp.types import Analysis, Check, Command, Kernel, ModelAdapter, Plot, Recorder

#: Kind of thing -> the hook that gives it and the class of what the hook's list holds.
KINDS: dict[str, tuple[str, type]] = {
    "analyses": ("devinterp_analyses", Analysis),
    "checks": ("devinterp_analyses", Check),
    "plots": ("devinterp_plots", Plot),
    "kernels": ("devinterp_kernels", Kernel),
    "adapters": ("devinterp_model_adapters", ModelAdapter),
    "recorders": ("devinterp_recorders", Recorder),
    "commands": ("devinterp_commands", Command),
}
HOOKS = tuple(dict.fromkeys(hook for hook, _ in KINDS.values()))


@dataclass(frozen=True, slots=True)
class PluginInfo:
    """One row of ``devinterp plugins``.

    Parameters
    ----------
    provider : Provider
        Where the plugin comes from.
    module : str
        What its entry point names.
    status : {"loaded", "blocked", "broken"}
        Whether it is in use; ``blocked`` by ``DEVINTERP_LOAD_PLUGINS``.
    provides : dict of str to tuple of str
        Names of what it provides, by kind (``analyses``, ``checks``, ``plots``, ``kernels``, ``adapters``, ``recorders``,
        ``commands``).
    error : str or None
        Why it is broken.
    """

    provider: Provider
    module: str
    status: str
    provides: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    error: str | None = None


class Host:
    """The plugins of one look at the installed distributions, and what they have provided so far."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._collected: dict[str, dict[str, Any]] = {}
        # Objects are kept beside their provider: an id alone could be given to another object later.
        self._providers: dict[int, tuple[Any, Provider]] = {}
        self._checked = False
        self.plugins = find_plugins()
        for plugin in self.plugins:
            if plugin.status == LOADED:
                self._load(plugin)

    def _load(self, plugin: Plugin) -> None:
        try:
            obj = plugin.load()
            if self._manager.is_registered(obj):
                raise PluginError(f"{plugin.module} is loaded already, by entry point {self._manager.get_name(obj)!r}")
            self._manager.register(obj, name=plugin.key)
        except Exception as error:  # a stranger's module may raise anything; the other plugins must work all the same
            if self._manager.has_plugin(plugin.key):  # older pluggy registers before it checks a hook's arguments
                self._manager.unregister(name=plugin.key)
            plugin.status, plugin.error = BROKEN, error
            return
        callers = self._manager.get_hookcallers(obj) or []
        plugin.misspelt = next((hook.name for hook in callers if _is_unknown(hook, obj)), None)
        unmarked = [name for name in dir(obj) if name.startswith(f"{PROJECT}_") and callable(getattr(obj, name, None))]
        unmarked = [name for name in unmarked if name not in {hook.name for hook in callers}]
        if forgotten := [name for name in unmarked if name in HOOKS or not callers]:
            self._reject(plugin, f"`{forgotten[0]}` is not marked as a hook: put `@devinterp.hookimpl` above it")
        elif not callers:
            self._reject(
                plugin, f"it implements none of the hooks {', '.join(HOOKS)}, each marked with `@devinterp.hookimpl`"
            )

    def _reject(self, plugin: Plugin, reason: str) -> None:
        self._manager.unregister(name=plugin.key)
        plugin.status, plugin.error = BROKEN, PluginError(reason)

    def check(self) -> None:
        """Raise for misspelt hooks; warn, or raise when strict, about plugins that could not be loaded."""
        if self._checked:
            return
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            plugin = next(each for each in self.plugins if each.misspelt)
            raise PluginError(
                f"{plugin} implements `{plugin.misspelt}`, which is no hook; the hooks are {', '.join(HOOKS)}. "
                f"{_remedy(plugin.provider)}"
            ) from error
        for plugin in self.plugins:
            if plugin.error is not None:
                _complain(f"{plugin} cannot be loaded", plugin.error, plugin.provider)
        self._checked = True

    def collect(self, kind: str) -> dict[str, Any]:
        """Return everything of one kind by name, asking each plugin's hook once."""
        if kind not in self._collected:
            by_name: dict[str, Any] = {}
            for plugin in self.plugins:
                try:
                    objects = self.ask(plugin, kind)
                except PluginError:
                    raise
                except Exception as error:  # a stranger's hook may raise anything
                    _complain(f"{plugin} is left out: its hook `{KINDS[kind][0]}` failed", error, plugin.provider)
                    continue
                for obj in objects:
                    self._add(by_name, kind, obj, plugin.provider)
            self._collected[kind] = by_name
        return self._collected[kind]

    def ask(self, plugin: Plugin, kind: str) -> list[Any]:
        """Return what the hook of one plugin gives, checked; nothing from a plugin that is blocked or broken."""
        hook, expected = KINDS[kind]
        allowed = tuple(each for name, each in KINDS.values() if name == hook)
        objects: list[Any] = []
        # Each implementation is called by itself, not through the hook, to know whose result is wrong.
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            if implementation.plugin_name != plugin.key:
                continue
            result = implementation.function()
            wanted = (
                f"`{hook}` of {plugin} must return a list of {' or '.join(each.__name__ for each in allowed)} objects"
            )
            if not isinstance(result, Sequence) or isinstance(result, str):
                raise PluginError(f"{wanted}, got {describe(result)}. {_remedy(plugin.provider)}")
            for obj in result:
                if not isinstance(obj, allowed):
                    raise PluginError(f"{wanted}, got a list with {describe(obj)}. {_remedy(plugin.provider)}")
            objects.extend(obj for obj in result if isinstance(obj, expected))
        return objects

    def _add(self, by_name: dict[str, Any], kind: str, obj: Any, provider: Provider) -> None:
        self._check_reserved(kind, obj.name, provider)
        # Most analyses are commands, too.
        analyses = (
            [each for each in self.collect("analyses").values() if each.has_command] if kind == "commands" else []
        )
        taken = {name: other for other in (*analyses, *by_name.values()) for name in names_of(other)}
        for name in names_of(obj):
            if name in taken:
                first = self._providers[id(taken[name])][1]
                both = f"two {kind}" if isinstance(taken[name], KINDS[kind][1]) else "an analysis and a command"
                raise PluginError(
                    f"{both} are named {name!r}: one of {first} (entry point {first.entry_point!r}) and one of "
                    f"{provider} (entry point {provider.entry_point!r}). Uninstall one or leave it out, for example "
                    f"with DEVINTERP_LOAD_PLUGINS=-{first.distribution}:{first.entry_point}."
                )
        self._providers[id(obj)] = (obj, provider)
        by_name[obj.name] = obj

    def _check_reserved(self, kind: str, name: str, provider: Provider) -> None:
        """Raise for a name that `tree.slt` or the command line uses for something of its own."""
        if kind in ("analyses", "commands") and name == "plot":
            owner = "where plots are, `tree.slt.plot` and `devinterp plot`"
        elif kind in ("analyses", "commands") and name in BUILTIN_COMMANDS:
            owner = f"the command `devinterp {name}` of {PROJECT} {version(PROJECT)}"
        else:
            return
        raise PluginError(
            f"{provider} (entry point {provider.entry_point!r}) has {'an analysis' if kind == 'analyses' else 'a command'} "
            f"named {name!r}, which is {owner}: it needs another name. {_remedy(provider)}"
        )

    def provider(self, obj: object) -> Provider | None:
        """Return where an object that was collected comes from, or None."""
        entry = self._providers.get(id(obj))
        return entry[1] if entry else None

    def info(self, plugin: Plugin) -> PluginInfo:
        """Return a plugin's row of the listing; errors are shown, not raised."""
        error = plugin.error
        provides = {}
        for kind in KINDS:
            try:
                provides[kind] = tuple(obj.name for obj in self.ask(plugin, kind))
            except Exception as failure:
                error = failure
        if plugin.misspelt:
            error = PluginError(f"`{plugin.misspelt}` is no hook; the hooks are {', '.join(HOOKS)}")
        status = BROKEN if error else plugin.status
        text = _reason(error, plugin.provider) if error else None
        return PluginInfo(plugin.provider, plugin.module, status, {k: v for k, v in provides.items() if v}, text)


def names_of(obj: Any) -> tuple[str, ...]:
    """Return every name an object answers to."""
    return (obj.name, *obj.aliases) if isinstance(obj, Kernel) else (obj.name,)


def describe(obj: object) -> str:
    """Say what an object is, for a message about a wrong type."""
    return f"the class {obj.__name__} itself" if isinstance(obj, type) else f"{type(obj).__name__} {obj!r:.80}"


def _is_unknown(hook: pluggy.HookCaller, plugin: object) -> bool:
    """Say whether a plugin implements a hook that does not exist, and does not call it optional."""
    return not hook.has_spec() and any(x.plugin is plugin and not x.optionalhook for x in hook.get_hookimpls())


def _complain(what: str, error: Exception, provider: Provider) -> None:
    if os.environ.get("DEVINTERP_STRICT_PLUGINS", "0") not in ("", "0"):
        raise PluginError(f"{what}: {_reason(error, provider)}.") from error
    warnings.warn(f"{what}: {_reason(error, provider)}.", PluginWarning, stacklevel=2)


def _reason(error: Exception, provider: Provider) -> str:
    """Return what went wrong; of a package that is missing, with the command that installs it."""
    if isinstance(error, PluginError):
        return str(error)
    reason = f"{type(error).__name__}: {error}"
    if optional.is_missing(error):
        wanted = optional.requirement_of(str(error.name), provider.distribution)
        return f"{reason}; `{optional.install_command([wanted])}`"
    return reason


def _remedy(provider: Provider) -> str:
    return f"To go on without it, set DEVINTERP_LOAD_PLUGINS=-{provider.distribution}."
