"""The models of a study: one, several by label, names with a pattern, or a function; each is loaded when its turn comes."""

from __future__ import annotations

import copy
import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor, nn

from devinterp.errors import InvalidInputError
from devinterp.models.wrappers import unwrapped
from devinterp.sampling.losses.identity import describe
from devinterp.sampling.run_store.weights_hash import hash_tensors
from devinterp.studies import patterns
from devinterp.studies.axes import Axis, Point, axis
from devinterp.studies.files import identity_of_file, load_named

#: The axis along which the labels of `models` lie.
CHECKPOINT = "checkpoint"


@final
@dataclass(frozen=True)
class ModelSource:
    """Where the models of a study come from.

    Parameters
    ----------
    names : tuple of str
        What of that which varies decides on the model.
    axis : Axis or None
        What the models themselves vary along.
    load : callable
        Returns the model of a point.
    identity : callable
        Returns a text that changes when the model of a point does, as far as that can be known without loading it.
    is_function : bool
        Whether `load` calls a function of the user, which may do anything.
    """

    names: tuple[str, ...]
    axis: Axis | None
    load: Callable[[Point], nn.Module]
    identity: Callable[[Point], str]
    is_function: bool = False

    def key(self, point: Point) -> tuple[Any, ...]:
        """Return what the points of one model have in common."""
        return tuple(point.labels[name] for name in self.names)


def model_source(
    models: Any,
    varying: Sequence[str],
    architecture: nn.Module | Callable[[], nn.Module] | None,
    function_identity: str,
) -> ModelSource:
    """Return where the models of a study come from.

    Parameters
    ----------
    models : object
        As for `devinterp.study`.
    varying : sequence of str
        Names of all that varies in ``over=``.
    architecture : torch.nn.Module, callable or None
        What state dicts are loaded into.
    function_identity : str
        What identifies `models`, if it is a function.

    Raises
    ------
    InvalidInputError
        If `models` is none of what it may be.
    """
    if isinstance(models, nn.Module):
        return ModelSource((), None, lambda _: models, lambda _: identity_of(models))
    if isinstance(models, Mapping) and models and not _is_state_dict(models):
        return _of_labels(dict(models), architecture)
    if isinstance(models, str | os.PathLike):
        return _of_name(os.fspath(models), varying, architecture)
    if callable(models):
        return _of_function(models, varying, function_identity)
    raise InvalidInputError(
        "`models` must be a model, a mapping of labels to models, state dicts, paths or names, a name with a pattern such as "
        f"'EleutherAI/pythia-70m@step{{0,1,2,4,...,512}}', or a function that loads one; got {type(models).__name__}."
    )


def _of_labels(models: dict[Any, Any], architecture: Any) -> ModelSource:
    for label, value in models.items():
        if not (isinstance(value, nn.Module | str | os.PathLike) or callable(value) or _is_state_dict(value)):
            raise InvalidInputError(
                f"`models`: {label!r} must be a model, a state dict, a path, a name or a function that loads one; got "
                f"{type(value).__name__}."
            )
        if _is_state_dict(value):
            _check_architecture(architecture, f"the state dict of {label!r}")
    has_functions = any(callable(value) and not isinstance(value, nn.Module) for value in models.values())
    return ModelSource(
        (CHECKPOINT,),
        axis(CHECKPOINT, models),
        lambda point: _loaded(point.values[CHECKPOINT], architecture),
        lambda point: identity_of(point.values[CHECKPOINT]),
        is_function=has_functions,
    )


def _of_name(name: str, varying: Sequence[str], architecture: Any) -> ModelSource:
    placeholders = [each for each in re.findall(r"\{(\w+)\}", name) if not each.isdigit()]
    unknown = [each for each in placeholders if each not in varying]
    if unknown:
        raise InvalidInputError(f"`models` (={name!r}) has {{{unknown[0]}}}, and `over` does not say what that is.")
    expanded = patterns.expand(name)
    names = tuple(dict.fromkeys([*placeholders, *((CHECKPOINT,) if expanded else ())]))

    def filled(point: Point) -> str:
        text = point.values[CHECKPOINT] if expanded else name
        return re.sub(r"\{(\w+)\}", lambda match: str(point.values[match[1]]), text)

    return ModelSource(
        names,
        axis(CHECKPOINT, expanded) if expanded else None,
        lambda point: _loaded(filled(point), architecture),
        lambda point: identity_of(filled(point)),
    )


def _of_function(function: Callable[..., nn.Module], varying: Sequence[str], identity: str) -> ModelSource:
    parameters = inspect.signature(function).parameters.values()
    taken = tuple(each.name for each in parameters if each.name in varying)
    unknown = [
        each.name
        for each in parameters
        if each.name not in varying
        and each.default is inspect.Parameter.empty
        and each.kind not in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    ]
    if unknown:
        raise InvalidInputError(
            f"the function that loads models takes {unknown[0]!r}, which does not vary: give its values in `over`, for example "
            f"over={{{unknown[0]!r}: [...]}}."
        )

    def load(point: Point) -> nn.Module:
        return _checked(function(**{name: point.values[name] for name in taken}), "the function that loads models")

    return ModelSource(
        taken,
        None,
        load,
        lambda point: f"{identity} {[(name, point.labels[name]) for name in taken]}",
        is_function=True,
    )


def _loaded(value: Any, architecture: Any) -> nn.Module:
    if isinstance(value, nn.Module):
        return value
    if _is_state_dict(value):
        return _with_weights(architecture, value, "a state dict")
    if isinstance(value, str | os.PathLike):
        name = os.fspath(value)
        loaded = load_named(name)
        if isinstance(loaded, nn.Module):
            return loaded
        _check_architecture(architecture, f"the state dict in {name!r}")
        return _with_weights(architecture, loaded, repr(name))
    return _checked(value(), "the function that loads a model")


def _with_weights(architecture: Any, weights: Mapping[str, Tensor], name: str) -> nn.Module:
    is_model = isinstance(architecture, nn.Module)
    model = copy.deepcopy(architecture) if is_model else _checked(architecture(), "`architecture`")
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InvalidInputError(f"{name} does not fit `architecture`: {error}") from error
    return model


def identity_of(value: Any) -> str:
    """Return a text that changes when a model, a state dict or what a name stands for does."""
    if isinstance(value, nn.Module):
        return f"{type(value).__qualname__} {value.training} {hash_tensors(unwrapped(value).state_dict())}"
    if _is_state_dict(value):
        return f"state dict {hash_tensors(value)}"
    if isinstance(value, str | os.PathLike):
        return identity_of_file(os.fspath(value))
    return describe(value).text


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(each, Tensor) for name, each in value.items())
    )


def _check_architecture(architecture: Any, what: str) -> None:
    if architecture is None:
        raise InvalidInputError(f"{what} holds weights alone: pass the model they belong to as `architecture=`.")
    if not isinstance(architecture, nn.Module) and not callable(architecture):
        raise InvalidInputError(f"`architecture` must be a model or a function that makes one; got {architecture!r}.")


def _checked(model: Any, what: str) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"{what} must return a torch.nn.Module; got {type(model).__name__}.")
    return model
