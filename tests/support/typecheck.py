"""The run-time type checker that tests/conftest.py puts around every function of the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

#: A float is asked for and an int is given: as in static typing, that is fine.
_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the types of a function's arguments and result, unless it is defined within another function.

    Such a one would be decorated anew at every call of that other, which costs a millisecond each: in the step of a small run
    more than all the rest.
    """
    return function if "<locals>" in function.__qualname__ else _check(function)
