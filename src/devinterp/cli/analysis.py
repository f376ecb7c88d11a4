"""An analysis as a command: its options from the signature, their help from the docstring."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from cyclopts import Parameter

from devinterp.overview import docstring_of
from devinterp.types import Analysis

STORE = Annotated[str, Parameter(help="Path or URL of the store of a run, or of several.")]
GROUP = Annotated[str | None, Parameter(help="Path of a sub-tree of the store, for example of one of several runs.")]
OUTPUT = Annotated[Path | None, Parameter(help="Where to write the whole result, a new .zarr; default: show it only.")]

_SCALARS = (bool, int, float, str, Path)


def command(analysis: Analysis) -> Callable[..., None]:
    """Return the command of an analysis: a function whose signature and docstring cyclopts reads.

    The options of the analysis become options of the command; those that cannot be written on a command line and have a
    default are left out. ``--group`` and ``--output`` (``-o``) are added, unless the analysis has options of these names.

    Parameters
    ----------
    analysis : Analysis
        Any analysis.

    Returns
    -------
    callable
        ``run(store, **options)``, which shows the result.
    """
    options = options_of(analysis.compute)
    taken = {option.name for option in options}
    ours = [
        _keyword("_group", GROUP, "--group", taken=taken),
        _keyword("_output", OUTPUT, "--output", "-o", taken=taken),
    ]

    def run(_store: str, *, _group: str | None = None, _output: Path | None = None, **given: Any) -> None:
        from devinterp.cli.show import check_output, save, show
        from devinterp.store.open import open as open_store

        check_output(_output)
        tree = open_store(_store, group=_group)
        result = getattr(tree.slt, analysis.name)(**given)
        if _output is not None:
            result = save(result, _output, name=analysis.name)
        show(result, title=analysis.name)

    store = inspect.Parameter(
        "_store", inspect.Parameter.POSITIONAL_ONLY, annotation=Annotated[STORE, Parameter(name="STORE")]
    )
    parameters = [store, *options, *(each for each in ours if each is not None)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__name__ = analysis.name
    run.__doc__ = docstring_of(analysis.compute)
    return run


def options_of(compute: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the options of an analysis that can be written on a command line, as keyword parameters with types."""
    _tree, *parameters = inspect.signature(compute).parameters.values()
    try:
        hints = typing.get_type_hints(compute, include_extras=True)
    except (NameError, AttributeError, TypeError):  # names that only type checkers import: go by the defaults
        hints = {}
    found = []
    for each in parameters:
        if each.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        required = each.default is inspect.Parameter.empty
        guess = str if required or each.default is None else type(each.default)
        hint = _writable(hints.get(each.name, guess))
        if hint is None and not required:
            continue
        found.append(each.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=str if hint is None else hint))
    return found


def _writable(hint: Any) -> Any:
    """Return what of a type can be written on a command line, or None."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return hint if _writable(arguments[0]) is not None else None
    if hint in _SCALARS or origin is Literal:
        return hint
    if origin in (Union, types.UnionType):
        members = [each for each in arguments if each is not types.NoneType]
        kept = [inner for each in members if (inner := _writable(each)) is not None]
        # A union offers what of it can be written; without None, since leaving the option out means that.
        return Union[tuple(kept)] if kept else None  # noqa: UP007  # built at run time
    if origin in (tuple, list, set, frozenset) or (isinstance(origin, type) and issubclass(origin, Sequence)):
        inner = [each for each in arguments if each is not Ellipsis]
        return hint if inner and all(_writable(each) == each for each in inner) else None
    return None


def _keyword(name: str, hint: Any, *flags: str, taken: set[str]) -> inspect.Parameter | None:
    free = [flag for flag in flags if flag.lstrip("-") not in taken]
    if not free:
        return None
    annotation = Annotated[hint, Parameter(name=free)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
