"""The run-time type checker that tests/conftest.py puts around every function of the package."""

from __future__ import annotations

import functools
import inspect
import random
import typing
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype._check.code import codemain

# Of a sequence one item is checked, drawn from Python's global generator: a checked run would change what a test draws from it.
codemain.getrandbits = random.Random(0).getrandbits  # type: ignore[attr-defined]

#: What jaxtyping's import hook puts around functions; `install` puts `check` there.
_shape_check = jaxtyping.jaxtyped

#: A float is asked for and an int is given: as in static typing, that is fine.
_check = beartype(conf=BeartypeConf(is_pep484_tower=True, violation_type=jaxtyping.TypeCheckError))


def install(packages: list[str]) -> None:
    """Check, from their import on, arguments, results and fields of all functions and dataclasses of some packages.

    jaxtyping's own decorator binds the arguments anew and checks them twice, which takes a third of the whole suite's time.
    Only annotations with shapes need it.
    """
    jaxtyping.jaxtyped = check  # what the hook writes above every function is looked up here
    jaxtyping.install_import_hook(packages, None)


def check(checked: Any = None, *, typechecker: None = None) -> Any:
    """Check the types of a function's arguments and result, unless it is defined within another function.

    Such a one would be decorated anew at every call of that other, which costs a millisecond each: in the step of a small run
    more than all the rest.
    """
    if checked is None:
        return check
    if inspect.isclass(checked):
        if is_dataclass(checked) and "__init__" in vars(checked):
            checked.__init__ = check(checked.__init__)  # type: ignore[misc]
        return checked
    if isinstance(checked, classmethod | staticmethod):
        return type(checked)(check(checked.__func__))
    if isinstance(checked, property):
        parts = (checked.fget, checked.fset, checked.fdel)
        return property(*(check(part) if part else None for part in parts), doc=checked.__doc__)
    return checked if "<locals>" in checked.__qualname__ else _checked_function(checked)


def _checked_function(function: Callable[..., Any]) -> Callable[..., Any]:
    written = function.__annotations__
    hints = {name: _resolved(hint, function) for name, hint in written.items()}
    if any("jaxtyping" in repr(hint) for hint in hints.values()):
        return _shape_check(function, typechecker=_check)
    function.__annotations__ = hints
    try:
        with_types = _check(function)
    finally:
        function.__annotations__ = written
    if with_types is function:
        return function

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        return (function if jaxtyping.config.jaxtyping_disable else with_types)(*args, **kwargs)

    return checked


def _resolved(hint: Any, function: Callable[..., Any]) -> Any:
    """Return the type that an annotation names; anything goes where the name is not imported at run time."""
    holder = type("Holder", (), {"__annotations__": {"hint": hint}})
    try:
        return typing.get_type_hints(holder, function.__globals__, include_extras=True)["hint"]
    except Exception:  # whatever evaluating an annotation raises
        return Any
