"""Try the loss of a run on a few rows: its shape, the names of its dims, and that gradients reach what is sampled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import nn

from devinterp import arguments, schema
from devinterp.errors import InvalidInputError
from devinterp.sampling.data.rows import Rows
from devinterp.sampling.data.tokens import counting
from devinterp.sampling.losses.loss import CustomLoss, check_losses
from devinterp.sampling.model_guard import unchanged
from devinterp.sampling.spec import RunSpec

#: Of so many restrictions it is tried whether gradients reach what they sample: models that cut them cut all alike.
_TRIED_RESTRICTIONS = 2


def check_loss(spec: RunSpec, loss_dims: Sequence[str] | None) -> RunSpec:
    """Try the loss on a few rows of each data set.

    Parameters
    ----------
    spec : RunSpec
        The run.
    loss_dims : sequence of str or None
        Names of the dims of one sample's loss, as the user gave them.

    Returns
    -------
    RunSpec
        With these names, and with the losses that count where they are of tokens.

    Raises
    ------
    InvalidInputError
        If losses have not one entry for each row, or another shape than was expected.
    """
    custom = isinstance(spec.loss, CustomLoss)
    source = "`loss_fn`" if custom else type(spec.loss).__name__
    sources = {"`dataset`": (spec.rows, spec.rows.ids)}
    sources |= {f"observable {name!r}": (o.rows, o.sequence_id) for name, o in spec.observables.items()}
    dims: dict[str, tuple[str, ...]] = {}
    marked: list[Rows] = []
    for name, (rows, ids) in sources.items():
        few = ids[:2]  # shapes show on two rows, and the plain path is slow
        batch, mask, _ = rows.batch(few)
        with torch.no_grad():
            losses = spec.loss.losses(spec.model, batch, mask)
        tokens = rows.token_ids
        only_tokens = tokens is not None and tokens is rows.data
        expected = (tokens.shape[1] - 1,) if tokens is not None and only_tokens and loss_dims is None else None
        checked = check_losses(losses, num_samples=len(few), expected=expected, source=f"{source} on {name}")
        dims[name] = _name_dims(checked.shape[1:], tokens, loss_dims, f"{source} on {name}")
        marked.append(counting(rows, checked.shape[1:], dims[name]) if custom else rows)
    if len(set(dims.values())) > 1:
        described = ", ".join(f"({', '.join(each)}) on {name}" for name, each in dims.items())
        raise InvalidInputError(f"{source} gives losses with different dims: {described}.")
    observables = {
        name: replace(each, rows=rows) for (name, each), rows in zip(spec.observables.items(), marked[1:], strict=True)
    }
    return replace(spec, loss_dims=dims["`dataset`"], rows=marked[0], observables=observables)


def check_gradient(spec: RunSpec) -> None:
    """Raise unless the loss can be differentiated with respect to the model's parameters, and to those sampled alone.

    Raises
    ------
    InvalidInputError
        If no gradient comes out of the loss, or it does not reach the sampled parameters where only these require gradients.
    """
    parameters = dict(spec.model.named_parameters(remove_duplicate=False))
    for name, masks in list(spec.restrictions.items())[:_TRIED_RESTRICTIONS]:
        sampled = [parameters[each] for each in masks]
        with unchanged(spec.model):
            _require_gradients(sampled)
            is_reached = _few_losses(spec).requires_grad
        if not is_reached:
            _check_not_cut_off(spec, name, sampled)


def _check_not_cut_off(spec: RunSpec, name: str, sampled: Sequence[nn.Parameter]) -> None:
    """Raise unless it is right that the sampled parameters get no gradient: the loss does not depend on them."""
    with unchanged(spec.model):
        _require_gradients(spec.model.parameters())
        losses = _few_losses(spec)
        differentiable = losses.requires_grad
        if differentiable:
            losses.nan_to_num().sum().backward()  # type: ignore[no-untyped-call]
        reached = any(parameter.grad is not None for parameter in sampled)
    if not differentiable and isinstance(spec.loss, CustomLoss):
        raise InvalidInputError(
            "`loss_fn` returned losses without a gradient: compute them with torch from the model's output, and leave out "
            "`torch.no_grad()`, `.detach()` and `.item()`."
        )
    if not differentiable:
        raise InvalidInputError(
            f"the logits of {type(spec.model).__name__} have no gradient: take `torch.no_grad()` and `.detach()` out of its "
            "`forward`."
        )
    if reached:
        raise InvalidInputError(
            f"gradients reach the sampled parameters of {name!r} only where others require them too, as under reentrant "
            "activation checkpointing: pass `use_reentrant=False` to it, or call `model.gradient_checkpointing_disable()`."
        )


def _require_gradients(parameters: Iterable[torch.Tensor]) -> None:
    for parameter in parameters:
        parameter.requires_grad_(parameter.is_floating_point())


def _few_losses(spec: RunSpec) -> torch.Tensor:
    batch, mask, _ = spec.rows.batch(spec.rows.ids[:2])
    return spec.loss.losses(spec.model, batch, mask)


def _name_dims(
    shape: Sequence[int], tokens: torch.Tensor | None, loss_dims: Sequence[str] | None, source: str
) -> tuple[str, ...]:
    if loss_dims is None:
        loss_dims = ()
        if tokens is not None and len(shape) == 1:  # of predicted tokens, or of all
            names = {tokens.shape[1] - 1: (schema.POSITION,), tokens.shape[1]: (schema.TOKEN,)}
            loss_dims = names.get(shape[0], ())
    loss_dims = arguments.names("loss_dims", loss_dims)
    if len(loss_dims) != len(shape):
        raise InvalidInputError(
            f"{source} returned losses with trailing shape {tuple(shape)}, but `loss_dims` names {len(loss_dims)} "
            f"({', '.join(loss_dims) or 'none'}): name each, for example loss_dims=('height', 'width')."
        )
    return tuple(loss_dims)
