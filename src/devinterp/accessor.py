"""``tree.slt``: every installed analysis as a method of any `xarray.DataTree`, and every plot under ``tree.slt.plot``.

The accessor holds the tree and nothing else. Looking a method up never reads data: whether the tree has what an analysis
requires is checked when the method is called.
"""

from __future__ import annotations

import difflib
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

import xarray as xr

from devinterp import flat_layout, optional, overview, plugins, runs, schema
from devinterp.errors import DevinterpError
from devinterp.types import Analysis, Plot

Spec = TypeVar("Spec", bound=Analysis | Plot)


class _Methods(Generic[Spec]):
    """Installed functions of a tree, each as a method of the same name."""

    __slots__ = ("_tree",)

    _path: ClassVar[str]
    _kind: ClassVar[str]
    _if_there_is_none: ClassVar[str] = ""

    def __init__(self, tree: xr.DataTree) -> None:
        self._tree = tree

    @staticmethod
    @abstractmethod
    def _installed() -> Mapping[str, Spec]: ...

    @abstractmethod
    def _call(self, spec: Spec, *args: Any, **options: Any) -> Any: ...

    def __getattr__(self, name: str) -> Callable[..., Any]:
        # Notebooks and copy ask for many private names; that must not load the plugins.
        installed: Mapping[str, Spec] = {} if name.startswith("_") else self._installed()
        if name in installed:
            return self._method(installed[name])
        close = difflib.get_close_matches(name, list(installed), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        known = f" Installed: {', '.join(installed)}." if installed else self._if_there_is_none
        raise AttributeError(f"no {self._kind} {name!r} is installed{hint}{known}", name=name, obj=self)

    def __dir__(self) -> Iterable[str]:
        try:
            installed = list(self._installed())
        except DevinterpError:  # completion stays quiet; looking a method up says what is wrong
            installed = []
        return [*super().__dir__(), *installed]

    def _method(self, spec: Spec) -> Callable[..., Any]:
        function = overview.function_of(spec)

        def method(*args: Any, **options: Any) -> Any:
            with optional.explained(needed_by=f"`{self._path}.{spec.name}`", distribution=plugins.distribution(spec)):
                return self._call(spec, *args, **options)

        method.__name__ = spec.name
        method.__qualname__ = f"{self._path}.{spec.name}"
        method.__module__ = getattr(function, "__module__", __name__)
        method.__doc__ = function.__doc__
        method.__wrapped__ = function  # type: ignore[attr-defined]
        method.__signature__ = overview.options_of(function)  # type: ignore[attr-defined]
        return method


class PlotAccessor(_Methods[Plot]):
    """The installed plots of a tree, ``tree.slt.plot``."""

    __slots__ = ()

    _path = "slt.plot"
    _kind = "plot"
    _if_there_is_none = f" Pictures come with devinterp-plots: {optional.plugin_advice('devinterp-plots')}."
    _installed = staticmethod(plugins.plots)

    def _call(self, spec: Plot, *args: Any, **options: Any) -> Any:
        # The root of a study says things of its own, even of a single run.
        if spec.of_study and (len(schema.runs(self._tree)) > 1 or schema.STUDY in self._tree.attrs):
            return spec.draw(
                runs.checked(self._tree, name=f"plot.{spec.name}", requires=spec.requires), *args, **options
            )
        run = runs.only(self._tree, name=f"plot.{spec.name}", requires=spec.requires)
        return spec.draw(run, *args, **options)

    def __repr__(self) -> str:
        """Return the installed plots and what this tree lacks for them."""
        return overview.text(self._tree, kinds=("plots",))

    def _repr_html_(self) -> str:
        return overview.html(self._tree, kinds=("plots",))


@xr.register_datatree_accessor("slt")  # type: ignore[no-untyped-call]
class SltAccessor(_Methods[Analysis]):
    """The installed analyses of a tree, ``tree.slt``.

    On a node with several sampling runs below it, an analysis is computed of each and the results are joined: those of a study
    along what varies in it, others along a dimension named after what differs between the runs (`devinterp.runs.join`).
    """

    __slots__ = ()

    _path = "slt"
    _kind = "analysis"
    _installed = staticmethod(plugins.analyses)

    def _call(self, spec: Analysis, *args: Any, **options: Any) -> Any:
        if spec.of_study:
            return spec.compute(runs.checked(self._tree, name=spec.name, requires=spec.requires), *args, **options)
        return runs.compute_each(
            self._tree,
            lambda run: spec.compute(run, *args, **options),
            name=spec.name,
            requires=spec.requires,
            leave_out_broken=options.get("chains") == "finished",
        )

    def to_v2(self, *, restriction: str | None = None) -> xr.Dataset:
        """Return one restriction of a run with the names and dims of DevInterp 2: see `devinterp.flat_layout.to_v2`."""
        return flat_layout.to_v2(runs.only(self._tree, name="to_v2"), restriction=restriction)

    @property
    def plot(self) -> PlotAccessor:
        """The installed plots of this tree."""
        return PlotAccessor(self._tree)

    def __repr__(self) -> str:
        """Return the installed analyses and plots and what this tree lacks for them."""
        return overview.text(self._tree)

    def _repr_html_(self) -> str:
        return overview.html(self._tree)
