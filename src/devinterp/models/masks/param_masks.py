"""The masks of a model's parameters: which weights a restriction lets move."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

import torch
from torch import nn

from devinterp.errors import InvalidInputError
from devinterp.models.masks.mask import Mask

__all__ = ["Mask", "ParamMasks", "as_param_masks", "full_masks"]


@final
class ParamMasks(Mapping[str, Mask]):
    """Masks by parameter name; immutable.

    Parameters
    ----------
    masks : mapping of str to Mask
        The parameters that move, at least in part.
    description : str, optional
        What they are, for people: the restriction as it was asked for.
    notes : tuple of str, optional
        What a reader should know, for example that embedding and unembedding share one tensor.
    """

    __slots__ = ("_masks", "description", "notes")

    def __init__(self, masks: Mapping[str, Mask], description: str = "", notes: tuple[str, ...] = ()) -> None:
        self._masks = dict(masks)
        self.description = description
        self.notes = notes

    def __getitem__(self, name: str) -> Mask:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    @property
    def num_elements(self) -> int:
        """Number of weights that move, over all parameters."""
        return sum(mask.num_elements for mask in self._masks.values())

    def __repr__(self) -> str:
        what = f"{self.description!r}: " if self.description else ""
        return f"ParamMasks({what}{self.num_elements:,} weights of {len(self)} parameters)"

    def _repr_html_(self) -> str:
        from devinterp.models.masks.preview import html

        return html(self)


def full_masks(model: nn.Module) -> ParamMasks:
    """Return the masks of every parameter, whole; allocates nothing."""
    return ParamMasks({name: Mask.whole(p.shape) for name, p in model.named_parameters()}, description="full")


def canonical_names(model: nn.Module) -> dict[str, str]:
    """Return, for every name under which a parameter can be reached, the one that ``named_parameters()`` gives it."""
    first = {id(p): name for name, p in model.named_parameters()}
    return {name: first[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}


def as_param_masks(model: nn.Module, masks: Mapping[str, Any] | str | Sequence[str] | None) -> ParamMasks:
    """Return validated masks, from whatever a user may pass as ``param_masks``.

    Parameters
    ----------
    model : torch.nn.Module
        The model whose parameters are meant.
    masks : mapping, str, sequence of str, or None
        None for every parameter; one or several restrictions (see `create_param_masks`); or masks by parameter name:
        `Mask`, boolean tensors or arrays (or zeros and ones) of the parameter's shape, True or None for the whole
        parameter, False to leave it out.

    Returns
    -------
    ParamMasks
        In the order of `masks` where that is a mapping, else in the order of ``model.named_parameters()``.

    Raises
    ------
    InvalidInputError
        A name is unknown, a shape or dtype is wrong, a mask selects nothing, or nothing is left to move.
    """
    if isinstance(masks, ParamMasks):
        _check_known(model, masks)
    if masks is None:
        return full_masks(model)
    if isinstance(masks, str) or (isinstance(masks, Sequence) and all(isinstance(part, str) for part in masks)):
        from devinterp.models.restrictions.resolve import create_param_masks

        return create_param_masks(model, masks)
    if not isinstance(masks, Mapping):
        raise InvalidInputError(
            f"`param_masks` must be a mapping of parameter names to masks, a restriction such as 'l0h1', or None; got "
            f"{type(masks).__name__}."
        )
    _check_known(model, masks)
    canonical, parameters = canonical_names(model), dict(model.named_parameters())
    checked: dict[str, Mask] = {}
    for name, value in masks.items():
        mask = _as_mask(name, value, parameters[canonical[name]].shape)
        if mask is not None:
            held = checked.get(canonical[name])
            checked[canonical[name]] = mask if held is None else held | mask
    if not checked:
        raise InvalidInputError(
            f"`param_masks` selects no weights of {type(model).__name__}: pass None to move all of them."
        )
    if isinstance(masks, ParamMasks):
        return ParamMasks(checked, masks.description, masks.notes)
    return ParamMasks(checked, f"masks of {len(checked)} parameters")


def _check_known(model: nn.Module, masks: Mapping[str, object]) -> None:
    known = canonical_names(model)
    for name in masks:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
            hint = f"did you mean {', '.join(map(repr, close))}?" if close else f"they are like {list(known)[:3]}."
            raise InvalidInputError(f"{name!r} in `param_masks` is no parameter of {type(model).__name__}: {hint}")


def _as_mask(name: str, value: Any, shape: Sequence[int]) -> Mask | None:
    """Return the mask of one parameter, or None for one that is left out."""
    if value is False:
        return None
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
