"""`study`: the same sampling run around many models, or with many settings, as one tree."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import xarray as xr
from torch import nn

from devinterp.sampling.losses.identity import loss_identity
from devinterp.slt.sampling import sample
from devinterp.studies.arguments import split
from devinterp.studies.axes import Over
from devinterp.studies.cost import StudyCost, estimate_study
from devinterp.studies.driver import carry_out_study
from devinterp.studies.plan import make_plan

if TYPE_CHECKING:
    from devinterp.store.location import StoreLike


def study(
    models: Any,
    dataset: Any = None,
    observables: Any = None,
    *,
    over: Over | None = None,
    architecture: nn.Module | Callable[[], nn.Module] | None = None,
    same_noise: bool = True,
    output_path: StoreLike | None = None,
    **arguments: Any,
) -> xr.DataTree | StudyCost:
    """Sample around several models, or with several settings: a run for each, all in one tree.

    One model is in memory at a time; the next one is loaded while it is sampled. Results of an analysis are joined along what
    varies: ``study(...).slt.llc()`` has the dimension ``checkpoint``.

    Parameters
    ----------
    models : torch.nn.Module, mapping, str, path or callable
        One model; a mapping of labels to models, state dicts, files of weights, directories or names on the HuggingFace hub,
        which adds the axis ``checkpoint``; a name with a pattern that stands for such a mapping, as
        ``"EleutherAI/pythia-70m@step{0,1,2,4,...,512}"`` or ``"runs/step-*.pt"``, or with ``{seed}`` for a value of `over`;
        or a function that takes names in `over` and returns a model in the mode in which it is to be sampled. Labels that
        are one text around numbers (``"step512"``) become numbers.
    dataset, observables : object
        As for `devinterp.sample`.
    over : mapping or sequence of mappings, optional
        What else varies. Names to values, of which all combinations are taken: ``seed`` (``init_seed``), ``kernel``
        (``sampling_method``), ``restrictions``, ``dataset``, any argument of `devinterp.sample`, and parameters of a function
        given as `models`, which alone gets these. Values are a list, or a mapping of labels to values. A tuple of names has
        tuples of values that vary together; a list of mappings is a list of such rows.
    architecture : torch.nn.Module or callable, optional
        The model that state dicts are loaded into (a copy of it), or a function that makes one.
    same_noise : bool, default: True
        Whether all runs see the same data in the same order and the same noise, so that differences between them are paired.
        False: each has a seed of its own, made of ``init_seed`` and its labels.
    output_path : str, path or zarr store, optional
        Where the store is written. If it holds this study, what is missing of it is sampled: runs that were not finished,
        further labels, draws, chains, restrictions. None keeps everything in memory.
    **arguments : Any
        Every other argument of `devinterp.sample`, the same for all runs; ``lr`` and ``n_beta`` are needed, here or in `over`.
        ``weight_restrictions`` may be a function of a model, as ``lambda model: devinterp.restrictions(model, "head")``.

    Returns
    -------
    xarray.DataTree
        A run in each child, named by its labels (``"checkpoint=512,seed=0"``); lazy when `output_path` is given. With
        ``dry_run=True`` a `devinterp.studies.StudyCost` instead.

    Raises
    ------
    InvalidInputError
        If anything given cannot be used in one of the runs, as far as that is known before models are loaded; nothing has been
        sampled then.
    StoreError
        If `output_path` cannot be written, or holds something else.
    StudyError
        If all runs failed. Where only some do, these are recorded, with a `devinterp.errors.FailedRunsWarning`, and the others
        go on.
    """
    base, how = split({**arguments, "dataset": dataset, "observables": observables, "output_path": output_path})
    function = models if callable(models) and not isinstance(models, nn.Module) else None
    with loss_identity(function, None) as identity:
        plan = make_plan(
            models,
            over,
            base,
            how,
            architecture=architecture,
            same_noise=same_noise,
            function_identity=identity.text,
        )
        return estimate_study(plan) if how.dry_run else carry_out_study(plan)


def _signature() -> inspect.Signature:
    """Return the signature with the arguments of `sample` in place of ``**arguments``."""
    own = [p for p in inspect.signature(study).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    names = {each.name for each in own} | {"model"}
    theirs = [p for p in inspect.signature(sample).parameters.values() if p.name not in names]
    # `lr` and `n_beta` may vary.
    optional = [
        p.replace(default=None, kind=inspect.Parameter.KEYWORD_ONLY) if p.default is inspect.Parameter.empty else p
        for p in theirs
    ]
    return inspect.signature(study).replace(parameters=[*own, *optional])


study.__signature__ = _signature()  # type: ignore[attr-defined]
