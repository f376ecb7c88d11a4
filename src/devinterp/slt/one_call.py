"""Functions that sample and analyse in one call: the arguments of `sample` and of an analysis together, written down once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import xarray as xr
from torch import nn

from devinterp.errors import InvalidInputError
from devinterp.sampling.estimate import DryRun
from devinterp.slt.sampling import sample

_Result = TypeVar("_Result", xr.Dataset, xr.DataTree)

_DOC = """Sample around a model's weights, then call `{module}.{name}`.

    Parameters
    ----------
    model, dataset, observables : object
        As for `devinterp.slt.sampling.sample`.
    **options : Any
        Every other argument of `devinterp.slt.sampling.sample` (``lr`` and ``n_beta`` are needed) and of
        `{module}.{name}`. An argument that both have, such as ``chains``, is the analysis's.

    Returns
    -------
    {result}
        As `{module}.{name}`.
    """


def sample_then(compute: Callable[..., _Result], name: str) -> Callable[..., _Result]:
    """Return a function that samples and hands the tree to an analysis.

    Parameters
    ----------
    compute : callable
        ``compute(tree, **options)``.
    name : str
        Of the function to be made.

    Returns
    -------
    callable
        Whose signature is that of `sample`, with the options of `compute`.
    """
    options: list[inspect.Parameter] = list(inspect.signature(compute).parameters.values())[1:]
    theirs = {option.name for option in options}

    def one_call(
        model: nn.Module, dataset: Any, observables: Mapping[str, Any] | None = None, **arguments: Any
    ) -> _Result:
        given = {key: arguments.pop(key) for key in list(arguments) if key in theirs}
        tree = sample(model, dataset, observables, **arguments)
        if isinstance(tree, DryRun):
            raise InvalidInputError(f"`dry_run` is for `sample`: there is nothing that `{name}` could analyse.")
        return compute(tree, **given)

    shared: list[inspect.Parameter] = [p for p in inspect.signature(sample).parameters.values() if p.name not in theirs]
    one_call.__name__ = one_call.__qualname__ = name
    one_call.__doc__ = _DOC.format(
        module=compute.__module__, name=compute.__name__, result=inspect.signature(compute).return_annotation
    )
    one_call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*shared, *(option.replace(kind=inspect.Parameter.KEYWORD_ONLY) for option in options)],
        return_annotation=inspect.signature(compute).return_annotation,
    )
    return one_call
