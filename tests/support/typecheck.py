"""The run-time checks of types that tests/conftest.py puts around the functions of the package.

jaxtyping's import hook decorates every function. Its own decorator binds the arguments of each call anew, and around all
functions took half the time of the whole suite; so it is left to functions whose annotations give shapes, and beartype alone
checks the others.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Sequence
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

#: A float is asked for and an int is given: as in static typing, that is fine.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))

WITH_SHAPE = re.compile(r"\b(Bool|Float|Int|Num|Shaped)\w*\[")


def install(packages: Sequence[str]) -> None:
    """Check the types of what is imported from these packages from now on."""
    jaxtyping.jaxtyped = chosen(jaxtyping.jaxtyped)
    jaxtyping.install_import_hook(packages, f"{__name__}.check")


def chosen(jaxtyped: Callable[..., Any]) -> Callable[..., Any]:
    """Return the decorator that the import hook puts around functions and classes."""

    def decorator(*, typechecker: Callable[..., Any]) -> Callable[[Any], Any]:
        def decorate(target: Any) -> Any:
            if WITH_SHAPE.search(" ".join(map(str, inspect.get_annotations(target).values()))):
                return jaxtyped(typechecker=typechecker)(target)
            if dataclasses.is_dataclass(target) and "__init__" in vars(target):
                target.__init__ = with_types(target.__init__)
            elif inspect.isfunction(target) and "<locals>" not in target.__qualname__:
                # One defined within another would be decorated at every call of that one, which costs a millisecond each.
                return with_types(target)
            return target

        return decorate

    return decorator


def with_types(function: types.FunctionType) -> Callable[..., Any]:
    """Return the function with its annotations checked, but for those of names that only a type checker imports."""
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    for name in ("__kwdefaults__", "__module__", "__qualname__"):
        setattr(copy, name, getattr(function, name))
    copy.__annotations__ = {name: known for name, known in resolved(function).items() if known is not Any}
    checked = check(copy)
    if checked is copy:
        return function
    # Who reads the signature finds what stands in the source.
    checked.__annotations__, checked.__doc__ = function.__annotations__, function.__doc__
    checked.__wrapped__ = function  # type: ignore[attr-defined]
    return checked


def resolved(function: types.FunctionType) -> dict[str, Any]:
    """Return what the annotations of a function mean, `Any` for those that cannot be evaluated at run time."""

    def meaning(annotation: Any) -> Any:
        if not isinstance(annotation, str):
            return annotation
        try:
            return eval(annotation, function.__globals__)
        except (AttributeError, NameError, TypeError):
            return Any

    return {name: meaning(annotation) for name, annotation in function.__annotations__.items()}
