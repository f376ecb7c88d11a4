"""What the functions under the paths of DevInterp 2 share: analyses of one or several runs, and sampling before them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from torch import nn

from devinterp import runs, schema
from devinterp.errors import BrokenChainsError, InvalidInputError
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

    Raises
    ------
    BrokenChainsError
        If chains diverged. What was sampled is in its attribute ``tree``.
    """


def of_each_run(compute: Callable[..., Any], tree: Any, *args: Any, **options: Any) -> Any:
    """Return an analysis of a run, or those of several runs in one tree, joined as `devinterp.runs.join` says."""
    if not isinstance(tree, xr.DataTree):
        raise InvalidInputError(
            f"expected the xarray.DataTree of a run, as `sample` returns it; got {type(tree).__name__}."
        )
    name = compute.__name__.removeprefix("compute_")
    return runs.compute_each(tree, lambda run: compute(run, *args, **options), name=name)


def with_options_of(
    analysis: Callable[..., Any], *, but: Sequence[str] = ()
) -> Callable[[Callable[..., _Result]], Callable[..., _Result]]:
    """Return a decorator that shows, in place of ``**options``, the options of an analysis in a function's signature.

    Parameters
    ----------
    analysis : callable
        Takes a tree and options.
    but : sequence of str, optional
        Options that the function has itself.
    """

    def decorate(function: Callable[..., _Result]) -> Callable[..., _Result]:
        signature = inspect.signature(function)
        own: list[inspect.Parameter] = [
            p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        taken = {p.name for p in own} | set(but)
        theirs = [p for p in list(inspect.signature(analysis).parameters.values())[1:] if p.name not in taken]
        keyword: list[inspect.Parameter] = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in theirs]
        function.__signature__ = signature.replace(parameters=[*own, *keyword])  # type: ignore[attr-defined]
        return function

    return decorate


def sample_then(
    compute: Callable[..., _Result],
    name: str,
    *,
    renamed: Mapping[str, str] | None = None,
    check: Callable[[Mapping[str, Any]], None] | None = None,
    fourth: str | None = None,
) -> Callable[..., _Result]:
    """Return a function that samples and hands the tree to an analysis.

    Parameters
    ----------
    compute : callable
        ``compute(tree, **options)``.
    name : str
        Of the function to be made.
    renamed : mapping of str to str, optional
        Options that the function has under other names: their names in `compute`, by those of the function.
    check : callable, optional
        Is given all arguments before anything is sampled, and raises if the analysis would refuse the run.
    fourth : str, optional
        Name of the argument that may be given after `observables` without its name.

    Returns
    -------
    callable
        Whose signature is that of `sample`, with the options of `compute`.
    """
    renamed = renamed or {}
    shown = {theirs: ours for ours, theirs in renamed.items()}
    options: list[inspect.Parameter] = [
        option.replace(name=shown.get(option.name, option.name), kind=inspect.Parameter.KEYWORD_ONLY)
        for option in list(inspect.signature(compute).parameters.values())[1:]
    ]
    theirs = {option.name for option in options}

    def one_call(
        model: nn.Module, dataset: Any, observables: Mapping[str, Any] | None = None, *further: Any, **arguments: Any
    ) -> _Result:
        if further:
            if fourth is None or len(further) > 1 or fourth in arguments:
                raise TypeError(f"{name}() takes model, dataset and observables by position, and all else by name")
            arguments[fourth] = further[0]
        if check is not None:
            check({"observables": observables, **arguments})
        given = {renamed.get(key, key): arguments.pop(key) for key in list(arguments) if key in theirs}
        tree = sample(model, dataset, observables, **arguments)
        if isinstance(tree, DryRun):
            raise InvalidInputError(f"`dry_run` is for `sample`: there is nothing that `{name}` could analyse.")
        try:
            return compute(tree, **given)
        except BrokenChainsError as error:
            raise _with_tree(error, tree, name, arguments.get("output_path")) from None

    shared: list[inspect.Parameter] = [p for p in inspect.signature(sample).parameters.values() if p.name not in theirs]
    one_call.__name__ = one_call.__qualname__ = name
    one_call.__doc__ = _DOC.format(
        module=compute.__module__, name=compute.__name__, result=inspect.signature(compute).return_annotation
    )
    one_call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*shared, *options],
        return_annotation=inspect.signature(compute).return_annotation,
    )
    return one_call


def _with_tree(error: BrokenChainsError, tree: xr.DataTree, name: str, output_path: Any) -> BrokenChainsError:
    """Return the error with what was sampled, and how to go on with it."""
    keep = (
        "Nothing is lost: the run is `error.tree` of this error (`except BrokenChainsError as error`), and "
        "`error.tree.to_zarr(path)` saves it"
        if output_path is None
        else f"The run is stored in {output_path}, and is `error.tree` of this error"
    )
    finished = (np.asarray(tree[f"{schema.STATUS}/state"], dtype=object) == schema.FINISHED).all(0)
    on = f"; `error.tree.slt.{name}(chains='finished')` goes on with its finished chains" if finished.any() else ""
    return BrokenChainsError(f"{error} {keep}{on}.", tree=tree)
