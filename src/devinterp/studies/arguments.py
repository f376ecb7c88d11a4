"""The arguments of `devinterp.slt.sampling.sample` for each run of a study."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

from devinterp.errors import InvalidInputError
from devinterp.sampling.options import RunOptions
from devinterp.slt.prepared_run import settings_of
from devinterp.slt.sampling import sample
from devinterp.studies.axes import Axis, Label, Point

#: What an axis is called, and the argument of `sample` that it sets, where they differ.
ALIASES = {"seed": "init_seed", "kernel": "sampling_method"}
#: Sets `param_masks`, or `weight_restrictions` where several are given.
RESTRICTIONS = "restrictions"
DATASET, OBSERVABLES = "dataset", "observables"

#: Arguments of `sample` that a study has once.
_OF_STUDY = (
    "model",
    "output_path",
    "storage_options",
    "options",
    "workers",
    "client",
    "progress",
    "repair",
    "dry_run",
    "notes",
)


@cache
def _parameters() -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(sample).parameters)


def check_axes(axes: Sequence[Axis], of_models: Collection[str], base: Mapping[str, Any]) -> None:
    """Raise `InvalidInputError` if something varies that neither models nor `sample` have, or that is also given once.

    Parameters
    ----------
    axes : sequence of Axis
        What varies.
    of_models : collection of str
        Names that decide on the model.
    base : mapping
        Arguments of `sample` that are the same for all runs.
    """
    known = {*_parameters(), *ALIASES, RESTRICTIONS} - {*_OF_STUDY}
    for axis in axes:
        for name in axis.names:
            if name in of_models or name == "row":
                continue
            if name not in known:
                raise InvalidInputError(
                    f"`over`: {name!r} is neither an argument of `sample` nor taken by `models`: expected one of "
                    f"{', '.join(sorted(ALIASES))}, {RESTRICTIONS}, an argument of `sample`, or a parameter of the function "
                    "that loads the model."
                )
            given = ["param_masks", "weight_restrictions"] if name == RESTRICTIONS else [ALIASES.get(name, name)]
            both = [each for each in given if base.get(each) is not None]
            if both:
                raise InvalidInputError(f"`{both[0]}` is given once and varies in `over`: give it only there.")


def arguments_of(
    point: Point, of_models: Collection[str], base: Mapping[str, Any], *, same_noise: bool
) -> dict[str, Any]:
    """Return every argument of `sample` for one run, but for the model.

    Parameters
    ----------
    point : Point
        What the run is about.
    of_models : collection of str
        Names that decide on the model, and on nothing else.
    base : mapping
        Arguments that are the same for all runs.
    same_noise : bool
        Whether all runs have the seed they are given; else each has one of its own, made of that seed and its labels.

    Raises
    ------
    InvalidInputError
        If an argument is unknown, missing or out of range.
    """
    varied: dict[str, Any] = {}
    for name, value in point.values.items():
        if name in of_models or name == "row":
            continue
        if name == RESTRICTIONS:
            several = isinstance(value, Mapping | list | tuple) and not _is_masks(value)
            varied["weight_restrictions" if several else "param_masks"] = value
        elif name == "kernel" and not isinstance(value, str):
            varied |= _kernel(value)
        else:
            varied[ALIASES.get(name, name)] = value
    try:
        bound = inspect.signature(sample).bind(None, **{"dataset": None, **base, **varied})
    except TypeError as error:
        raise InvalidInputError(f"`study`: {error}.") from None
    bound.apply_defaults()
    arguments: dict[str, Any] = dict(bound.arguments)
    if not same_noise:
        text = repr((arguments["init_seed"], sorted(point.labels.items())))
        arguments["init_seed"] = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1
    settings_of(arguments)
    return arguments


def split(given: Mapping[str, Any]) -> tuple[dict[str, Any], RunOptions]:
    """Return the arguments of `sample` that say what is sampled, and those that say how.

    Raises
    ------
    InvalidInputError
        If an argument is none of `sample`, or an option is given twice.
    """
    parameters = _parameters()
    unknown = [name for name in given if name not in parameters]
    if unknown:
        raise InvalidInputError(f"`study` has no argument {unknown[0]!r}; it has its own and those of `sample`.")
    names = RunOptions.__dataclass_fields__
    defaults = {name: parameters[name].default for name in names}
    how = RunOptions.merged(given.get("options"), {**defaults, **{n: v for n, v in given.items() if n in names}})
    return {name: value for name, value in given.items() if name not in names and name != "options"}, how


def _kernel(value: Any) -> dict[str, Any]:
    if isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[1], Mapping):
        return {"sampling_method": value[0], "sampling_method_kwargs": value[1]}
    raise InvalidInputError(
        f"`over`: a kernel must be a name, or a name and its options, as ('sgnht', {{...}}); got {value!r}."
    )


def _is_masks(value: Any) -> bool:
    """Say whether a value is masks by parameter name rather than restrictions by name."""
    return isinstance(value, Mapping) and bool(value) and all(hasattr(each, "shape") for each in value.values())


def label_text(labels: Mapping[str, Label]) -> str:
    """Return what a person calls a run."""
    return ", ".join(f"{name} {label}" for name, label in labels.items()) or "the run"


def restrictions_for(model: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a run with restrictions that a function makes of its model."""
    resolved = dict(arguments)
    for name in ("param_masks", "weight_restrictions"):
        value = resolved[name]
        if callable(value) and not isinstance(value, Mapping):
            resolved[name] = value(model)
    return resolved
