"""Functions that sample and analyse in one call share the arguments of `sample`; this writes them down once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from devinterp.slt.sampling import sample

_F = TypeVar("_F", bound=Callable[..., Any])


def takes_sampling_arguments(function: _F) -> _F:
    """Give a function the keyword arguments of `sample` in place of its ``**sampling``, for signatures and completion."""
    own = [p for p in inspect.signature(function).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    names = {p.name for p in own}
    shared = [p for p in inspect.signature(sample).parameters.values() if p.name not in names]
    required = [p for p in shared if p.default is inspect.Parameter.empty]
    optional = [p for p in shared if p.default is not inspect.Parameter.empty]
    positional = [p for p in own if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    keyword = [p for p in own if p.kind is inspect.Parameter.KEYWORD_ONLY]
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*positional, *required, *keyword, *optional],
        return_annotation=inspect.signature(function).return_annotation,
    )
    return function
