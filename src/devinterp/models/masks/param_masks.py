"""Masks of a model's parameters by name: set operations on them, and validation of those that a user passes."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import torch
from torch import nn

from devinterp.errors import InvalidInputError
from devinterp.models.masks.mask import Mask

Masks = Mapping[str, Mask]


@final
class ParamMasks(dict[str, Mask]):
    """Masks of the sampled parameters by name: a dict, in which boolean tensors may be put too.

    Parameters
    ----------
    masks : mapping of str to Mask
        The parameters of which at least one element is selected.
    description : str, optional
        The restriction as it was asked for, for people to read; empty once the masks were changed.
    notes : tuple of str, optional
        What a reader should know, for example that embedding and unembedding share one tensor.
    """

    __slots__ = ("description", "notes")

    def __init__(self, masks: Mapping[str, Any] = {}, description: str = "", notes: tuple[str, ...] = ()) -> None:
        super().__init__({name: _any_mask(name, mask) for name, mask in masks.items()})
        self.description = description
        self.notes = notes

    def __reduce__(self) -> tuple[Any, ...]:
        return (ParamMasks, (dict(self), self.description, self.notes))

    def copy(self) -> ParamMasks:
        """Return masks that can be changed without changing these."""
        return ParamMasks(self, self.description, self.notes)

    def __setitem__(self, name: str, mask: Any) -> None:
        super().__setitem__(name, _any_mask(name, mask))
        self.description = ""

    def __delitem__(self, name: str) -> None:
        super().__delitem__(name)
        self.description = ""

    def update(self, *others: Any, **named: Any) -> None:
        """Put other masks in, over those of the same name."""
        for name, mask in dict(*others, **named).items():
            self[name] = mask

    def setdefault(self, name: str, default: Any = None) -> Mask:
        """Return the mask of a name, which is put in if there is none."""
        if name not in self:
            self[name] = default
        return self[name]

    def __ior__(self, other: Any) -> ParamMasks:  # type: ignore[misc,override]
        self.update(other)
        return self

    def pop(self, *arguments: Any) -> Any:
        """Remove the mask of a name, and return it."""
        self.description = ""
        return super().pop(*arguments)

    def popitem(self) -> tuple[str, Mask]:
        """Remove the last mask, and return it with its name."""
        self.description = ""
        return super().popitem()

    def clear(self) -> None:
        """Remove all masks."""
        self.description = ""
        super().clear()

    @property
    def num_elements(self) -> int:
        """Number of selected weights, over all parameters."""
        return sum(mask.num_elements for mask in self.values())

    def __repr__(self) -> str:
        prefix = f"{self.description!r}: " if self.description else ""
        return f"ParamMasks({prefix}{self.num_elements:,} weights of {len(self)} parameters)"

    def _repr_html_(self) -> str:
        from devinterp.models.masks.preview import Preview  # needs rich

        return Preview(self)._repr_html_()


def union(parts: Iterable[Masks]) -> dict[str, Mask]:
    """Return the union of masks by parameter name."""
    total: dict[str, Mask] = {}
    for part in parts:
        for name, mask in part.items():
            total[name] = total[name] | mask if name in total else mask
    return total


def difference(whole: Masks, part: Masks) -> dict[str, Mask]:
    """Return the elements of `whole` that are not in `part`, without parameters that have none."""
    rest = {name: mask - part[name] if name in part else mask for name, mask in whole.items()}
    return {name: mask for name, mask in rest.items() if not mask.is_empty}


def full_masks(model: nn.Module) -> ParamMasks:
    """Return masks that select every element of every parameter; allocates nothing."""
    return whole_masks(model, [name for name, _ in model.named_parameters()])


def whole_masks(model: nn.Module, names: Iterable[str]) -> ParamMasks:
    """Return masks that select every element of some parameters, described as "full"; allocates nothing."""
    parameters = dict(model.named_parameters())
    return ParamMasks({name: Mask.whole(parameters[name].shape) for name in names}, description="full")


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Return, for every name under which a parameter can be reached, the one that ``named_parameters()`` gives it."""
    first = {id(p): name for name, p in model.named_parameters()}
    return {name: first[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}


def validated_masks(model: nn.Module, masks: Mapping[str, Any]) -> ParamMasks:
    """Return the masks that a user passed by parameter name, checked against the model's parameters.

    Parameters
    ----------
    model : torch.nn.Module
        The model that has the parameters.
    masks : mapping of str to mask
        `Mask`, boolean tensors or arrays (or zeros and ones) of the parameter's shape, True or None for the whole
        parameter, False to leave it out. Names of a tied parameter are united.

    Returns
    -------
    ParamMasks
        In the order of `masks`.

    Raises
    ------
    InvalidInputError
        A name is unknown, a shape or dtype is wrong, a mask selects nothing, or no mask remains.
    """
    parameters, canonical = dict(model.named_parameters()), canonical_names(model)
    for name in masks:
        if name not in canonical:
            close = difflib.get_close_matches(str(name), canonical, n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(map(repr, close))}?" if close else f"they are like {list(canonical)[:3]}."
            raise InvalidInputError(f"{name!r} in `param_masks` is no parameter of {type(model).__name__}: {hint}")
    checked = union(
        {canonical[name]: _as_mask(name, value, parameters[canonical[name]].shape)}
        for name, value in masks.items()
        if value is not False
    )
    if not checked:
        raise InvalidInputError(
            f"`param_masks` selects no weights of {type(model).__name__}: pass None to sample all of them."
        )
    if isinstance(masks, ParamMasks):
        return ParamMasks(checked, masks.description, masks.notes)
    return ParamMasks(checked, f"masks of {len(checked)} parameters")


def _any_mask(name: str, value: Any) -> Mask:
    """Return a mask or a boolean tensor of any shape as a mask."""
    if isinstance(value, Mask):
        return value
    try:
        return Mask.from_bool(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(f"the mask of {name!r} must be a boolean tensor or array: {error}") from error


def _as_mask(name: str, value: Any, shape: Sequence[int]) -> Mask:
    """Return what a user passed for one parameter as a mask."""
    if value is None or value is True:
        return Mask.whole(shape)
    if not isinstance(value, Mask):
        try:
            tensor = torch.as_tensor(value).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            raise InvalidInputError(
                f"the mask of {name!r} must be a boolean tensor or array, got {type(value).__name__}."
            ) from error
        if tensor.dtype != torch.bool:
            if not bool(((tensor == 0) | (tensor == 1)).all()):
                raise InvalidInputError(
                    f"the mask of {name!r} must be boolean or hold only 0 and 1, got {tensor.dtype} with values in "
                    f"{tensor.min().item()}..{tensor.max().item()}."
                )
            tensor = tensor != 0
        if tuple(tensor.shape) == tuple(shape):
            value = Mask.from_bool(tensor)
    if tuple(value.shape) != tuple(shape):
        raise InvalidInputError(
            f"the mask of {name!r} has shape {tuple(value.shape)}, but the parameter has shape {tuple(shape)}."
        )
    assert isinstance(value, Mask)
    if value.is_empty:
        raise InvalidInputError(f"the mask of {name!r} selects no element: leave the name out, or mask something.")
    return value
