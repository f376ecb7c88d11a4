"""Functions as commands: which of their parameters can be written on a command line, and the help from their docstring."""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from cyclopts import Parameter

from devinterp.errors import InvalidInputError
from devinterp.overview import docstring_of

#: A model by its name, of the commands that load one.
MODEL = Annotated[str, Parameter(help="`smollm2`, a directory, or a model on the HuggingFace hub.")]

_SCALARS = (bool, int, float, str, Path)


def as_command(
    function: Callable[..., Any], parameters: Iterable[inspect.Parameter], *, name: str, documented: Callable[..., Any]
) -> Callable[..., Any]:
    """Give a function the signature and help of a command.

    Parameters
    ----------
    function : callable
        What the command runs.
    parameters : iterable of inspect.Parameter
        Its parameters, with types that cyclopts understands, in the order of the help.
    name : str
        Name of the command.
    documented : callable
        Whose docstring describes them.

    Returns
    -------
    callable
        What cyclopts takes.
    """

    def command(*args: Any, **options: Any) -> Any:
        return function(*args, **options)

    signature = inspect.Signature(list(parameters))
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in signature.parameters.values()}
    command.__name__ = name
    command.__doc__ = help_of(documented)
    return command


def options_of(function: Callable[..., Any], *, skip: int) -> list[inspect.Parameter]:
    """Return those of a function's parameters that can be written on a command line, as keyword parameters with types.

    Parameters
    ----------
    function : callable
        Any function.
    skip : int
        Number of its first parameters to leave out.

    Returns
    -------
    list of inspect.Parameter
        A required parameter of another type is taken as text; an optional one is left out.
    """
    options = []
    for each in list(inspect.signature(function).parameters.values())[skip:]:
        if each.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        hint = _writable(_hint(function, each))
        if hint is None and each.default is not inspect.Parameter.empty:
            continue
        options.append(each.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=str if hint is None else hint))
    return options


def help_of(function: Callable[..., Any]) -> str:
    """Return a function's docstring as a command's help needs it: no citations, and one entry for each parameter.

    numpydoc lets parameters share an entry, ``low, high : float``; cyclopts looks each up by its name.
    """
    entry = re.compile(r"^((?:\w+, )+\w+)( :.*\n(?:(?:[ ]{4}.*)?\n)*)", re.MULTILINE)
    return entry.sub(
        lambda match: "".join(f"{name}{match[2]}" for name in match[1].split(", ")), docstring_of(function) + "\n"
    )


def _hint(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """Return the type of one parameter; by its default where the annotation names what only type checkers import."""
    annotated = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    if parameter.annotation is not inspect.Parameter.empty:
        try:
            names = getattr(inspect.unwrap(function), "__globals__", {})
            return typing.get_type_hints(annotated, globalns=names, include_extras=True)[parameter.name]
        except (NameError, AttributeError, TypeError):
            pass
    return str if parameter.default in (None, inspect.Parameter.empty) else type(parameter.default)


def _writable(hint: Any) -> Any:
    """Return the part of a type that can be written on a command line, or None where there is none."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return hint if _writable(arguments[0]) is not None else None
    if hint in _SCALARS or origin is Literal:
        return hint
    if origin in (Union, types.UnionType):
        members = [each for each in arguments if each is not types.NoneType]
        kept = [inner for each in members if (inner := _writable(each)) is not None]
        # Of a union, the members that can be written; not None, which means that the option is left out. A sequence replaces
        # the type of its elements: one value on the command line is a sequence of one.
        kept = [each for each in kept if typing.get_args(each) and typing.get_origin(each) is not Literal] or kept
        return Union[tuple(kept)] if kept else None  # noqa: UP007  # built at run time
    if origin in (tuple, list, set, frozenset) or (isinstance(origin, type) and issubclass(origin, Sequence)):
        inner = [each for each in arguments if each is not Ellipsis]
        return hint if inner and all(_writable(each) == each for each in inner) else None
    return None


def pairs_of(given: Sequence[str], option: str, *, alone: bool = False) -> dict[str, str]:
    """Split name=value; with `alone`, a value without a name is its own name.

    Raises
    ------
    InvalidInputError
        If one looks otherwise, or a name occurs twice; the message names the option.
    """
    pairs: dict[str, str] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not name or (not equals and not alone) or (equals and not value):
            raise InvalidInputError(f"`--{option}` (={each!r}) must look like name=value.")
        if name in pairs:
            raise InvalidInputError(f"`--{option}` names {name!r} twice.")
        pairs[name] = value if equals else name
    return pairs


def value_of(text: str) -> Any:
    """Return the number, boolean or None that a JSON text stands for; any other text as it is."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
