"""Turn what a user passes into a checked specification of a run, before anything is sampled or written."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from devinterp import plugins, schema
from devinterp.errors import InvalidInputError
from devinterp.kernels import build_transition
from devinterp.models.masks.param_masks import ParamMasks
from devinterp.models.parameter_check import check_parameters
from devinterp.models.restrictions import as_param_masks
from devinterp.models.wrappers import unwrapped
from devinterp.notes import note_once
from devinterp.sampling.chains.mala import proposes_langevin
from devinterp.sampling.data.datasets import row_source
from devinterp.sampling.data.rows import Rows
from devinterp.sampling.data.schedule import Schedule, observable_rows
from devinterp.sampling.data.tokens import as_tokens, check_tokens, counting
from devinterp.sampling.engines.chunked_check import choose_loss
from devinterp.sampling.engines.position_check import choose_positions
from devinterp.sampling.engines.train_mode_check import why_unlike_eval
from devinterp.sampling.losses.identity import LossIdentity
from devinterp.sampling.losses.loss import CustomLoss, Loss, LossFunction, NextTokenLoss, check_losses
from devinterp.sampling.model_guard import unchanged
from devinterp.sampling.settings import Settings
from devinterp.sampling.spec import Observable, RunSpec
from devinterp.types import Kernel, ModelAdapter

#: Of so many restrictions it is tried whether gradients reach what they sample: models that cut them cut all alike.
_TRIED_RESTRICTIONS = 2


def prepare(
    model: nn.Module,
    dataset: Any,
    observables: Mapping[str, Any] | None,
    settings: Settings,
    *,
    restrictions: Mapping[str, ParamMasks],
    loss_fn: LossFunction | None = None,
    loss_dims: Sequence[str] | None = None,
    loss_identity: LossIdentity | None = None,
    adapter: str | ModelAdapter | None = None,
    device: str | torch.device | None = None,
) -> RunSpec:
    """Return the checked run.

    Raises
    ------
    InvalidInputError
        If the model, the data, the loss or the settings cannot be used; nothing has been sampled or written.
    """
    kernel = check_kernel(settings)
    model = on_device(model, device)
    with unchanged(model):  # the mode it is in may let a forward pass change its buffers
        target = next(model.parameters()).device
        loss = _make_loss(model, loss_fn, loss_identity, adapter)
        source = row_source(dataset, name="`dataset`")
        used = Schedule(settings, source.num_rows).rows()
        rows = source.read(used, only_tokens=isinstance(loss, NextTokenLoss))
        read = _read_observables(observables or {}, settings, loss)
        if isinstance(loss, NextTokenLoss):
            vocab_size = loss.adapter.vocab_size(model)
            rows = _checked_tokens(rows, vocab_size, name="`dataset`")
            read = {
                name: replace(each, rows=_checked_tokens(each.rows, vocab_size, name=f"observable {name!r}"))
                for name, each in read.items()
            }
        read = {name: replace(each, rows=each.rows.placed(target)) for name, each in read.items()}
        notes = {f"weights/{name}": "; ".join(masks.notes) for name, masks in restrictions.items() if masks.notes}
        spec = RunSpec(
            model, loss, (), rows.placed(target), source.num_rows, read, restrictions, kernel, settings, notes
        )
        spec = check_loss(spec, loss_dims)
        check_gradient(spec)
        spec = replace(spec, unlike_eval=check_mode(spec))
        if isinstance(loss, NextTokenLoss):
            loss, positions = choose_positions(loss, model, [spec.rows, *(each.rows for each in read.values())])
            batch, mask, counted = spec.rows.batch(rows.ids[: min(settings.batch_size, 2)])
            assert isinstance(batch, torch.Tensor)
            loss, note = choose_loss(loss, model, batch, mask, counted)
            choices = {**spec.choices, "loss": note, **({"positions": positions} if positions else {})}
            spec = replace(spec, loss=loss, choices=choices)
        return spec


def _checked_tokens(rows: Rows, vocab_size: int | None, *, name: str) -> Rows:
    tokens = as_tokens(rows, name=name)
    check_tokens(tokens, vocab_size, name=name)
    return tokens


def check_kernel(settings: Settings) -> Kernel:
    """Return the kernel named in the settings, after trying its options."""
    kernel = plugins.kernel(settings.sampling_method)
    try:
        transition = build_transition(kernel, settings.target, lr=settings.lr, **settings.sampling_method_kwargs)
    except TypeError as error:
        raise InvalidInputError(
            f"`sampling_method_kwargs` (={dict(settings.sampling_method_kwargs)}) do not fit {kernel.name!r}: {error}"
        ) from error
    if schema.MALA_ACCEPTANCE in settings.metric_names and not proposes_langevin(transition, settings.target):
        raise InvalidInputError(
            f"`save_metrics`: {schema.MALA_ACCEPTANCE!r} is defined for steps of Langevin type, such as those of 'sgld' and "
            f"'rmsprop_sgld'; {kernel.name!r} with {dict(settings.sampling_method_kwargs)} takes others."
        )
    return kernel


def check_model(model: object) -> nn.Module:
    """Return the module to sample, without what wraps it.

    Raises
    ------
    InvalidInputError
        If it is no module, or its parameters cannot be used.
    """
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"`model` must be a torch.nn.Module; got {type(model).__name__}.")
    inner = unwrapped(model)
    check_parameters(inner)
    return inner


def choose_device(model: nn.Module, device: str | torch.device | None) -> str | torch.device | None:
    """Return where to sample: as asked; else where the model is, but on the GPU if it is on the CPU and there is one."""
    if device is not None or not torch.cuda.is_available() or any(p.device.type != "cpu" for p in model.parameters()):
        return device
    note_once(
        "device",
        "devinterp: the model is on the CPU and is sampled on the GPU, on a copy (device=None). device='cpu' "
        "samples it where it is.",
    )
    return "cuda"


def on_device(model: nn.Module, device: str | torch.device | None) -> nn.Module:
    """Return the model on a device: itself where it is there already, else one copy."""
    parameters = list(model.parameters())
    if device is None:
        return model
    try:
        wanted = torch.device(device)
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        kinds = (
            ["cpu"]
            + (["cuda"] if torch.cuda.is_available() else [])
            + (["mps"] if torch.backends.mps.is_available() else [])
        )
        raise InvalidInputError(
            f"`device` (={str(device)!r}) is not available; available here: {', '.join(kinds)}."
        ) from error
    if all(p.device == wanted or (p.device.type == wanted.type and wanted.index is None) for p in parameters):
        return model
    return copy.deepcopy(model).to(wanted)


def name_restrictions(
    model: nn.Module,
    param_masks: Any,
    weight_restrictions: Mapping[str, Any] | Sequence[str] | None,
    trainable: Collection[str],
) -> dict[str, ParamMasks]:
    """Return the restrictions of a run by name, from either way of giving them.

    Parameters
    ----------
    model : torch.nn.Module
        As the caller gave it.
    param_masks, weight_restrictions : object
        As for `devinterp.slt.sampling.sample`.
    trainable : collection of str
        The parameters that required gradients when the model was passed.

    Raises
    ------
    InvalidInputError
        If both are given, none is left, or a mask cannot be used.
    """
    if weight_restrictions is None:
        masks = as_param_masks(model, param_masks, trainable=trainable)
        name = masks.description if isinstance(param_masks, (str, ParamMasks)) or param_masks is None else "custom"
        return {name or "custom": masks}
    if param_masks is not None:
        raise InvalidInputError("`param_masks` and `weight_restrictions` both say what is sampled: pass only one.")
    if isinstance(weight_restrictions, str):
        weight_restrictions = [weight_restrictions]
    if not isinstance(weight_restrictions, Mapping):
        weight_restrictions = {name: name for name in weight_restrictions}
    if not weight_restrictions:
        raise InvalidInputError("`weight_restrictions` is empty: name at least one, for example {'full': None}.")
    if "" in weight_restrictions:
        raise InvalidInputError("a name in `weight_restrictions` is empty: name each, for example {'full': None}.")
    return {name: as_param_masks(model, masks, trainable=trainable) for name, masks in weight_restrictions.items()}


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
        marked.append(counting(rows, checked.shape[1:]) if custom else rows)
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
    model = spec.model
    with unchanged(model):
        _require_gradients(model.parameters())
        differentiable = _few_losses(spec).requires_grad
    if not differentiable and isinstance(spec.loss, CustomLoss):
        raise InvalidInputError(
            "`loss_fn` returned losses without a gradient: compute them with torch from the model's output, and leave out "
            "`torch.no_grad()`, `.detach()` and `.item()`."
        )
    if not differentiable:
        raise InvalidInputError(
            f"the logits of {type(model).__name__} have no gradient: take `torch.no_grad()` and `.detach()` out of its "
            "`forward`."
        )
    for name, masks in list(spec.restrictions.items())[:_TRIED_RESTRICTIONS]:
        _check_reached(spec, name, masks)


def _check_reached(spec: RunSpec, name: str, masks: ParamMasks) -> None:
    parameters = dict(spec.model.named_parameters(remove_duplicate=False))
    sampled = [parameters[each] for each in masks]
    with unchanged(spec.model):
        _require_gradients(sampled)
        if _few_losses(spec).requires_grad:
            return
    with unchanged(spec.model):
        _require_gradients(spec.model.parameters())
        _few_losses(spec).nan_to_num().sum().backward()  # type: ignore[no-untyped-call]
        reached = any(parameter.grad is not None for parameter in sampled)
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


def check_mode(spec: RunSpec) -> str:
    """Return what makes the model, in train mode, differ from eval mode; raise where a metric needs that nothing does."""
    batch, mask, _ = spec.rows.batch(spec.rows.ids[: spec.settings.batch_size])
    reason = why_unlike_eval(spec.model, lambda: spec.loss.losses(spec.model, batch, mask))
    if reason and schema.MALA_ACCEPTANCE in spec.settings.metric_names:
        raise InvalidInputError(
            f"`save_metrics`: {schema.MALA_ACCEPTANCE!r} compares losses of a model in eval mode, and in train mode {reason}: "
            "call `model.eval()`."
        )
    return reason


def _name_dims(
    shape: Sequence[int], tokens: torch.Tensor | None, loss_dims: Sequence[str] | None, source: str
) -> tuple[str, ...]:
    if loss_dims is None:
        loss_dims = ()
        if tokens is not None and len(shape) == 1:  # of predicted tokens, or of all
            names = {tokens.shape[1] - 1: (schema.POSITION,), tokens.shape[1]: (schema.TOKEN,)}
            loss_dims = names.get(shape[0], ())
    if len(loss_dims) != len(shape):
        raise InvalidInputError(
            f"{source} returned losses with trailing shape {tuple(shape)}, but `loss_dims` names {len(loss_dims)} "
            f"({', '.join(loss_dims) or 'none'}): name each, for example loss_dims=('height', 'width')."
        )
    return tuple(loss_dims)


def _make_loss(
    model: nn.Module,
    loss_fn: LossFunction | None,
    identity: LossIdentity | None,
    adapter: str | ModelAdapter | None,
) -> Loss:
    if loss_fn is None:
        return NextTokenLoss(plugins.adapter_for(model, adapter))
    if not callable(loss_fn):
        raise InvalidInputError(f"`loss_fn` must be a function of (model, batch); got {type(loss_fn).__name__}.")
    return CustomLoss(loss_fn, identity)


def _read_observables(observables: Mapping[str, Any], settings: Settings, loss: Loss) -> dict[str, Observable]:
    if not isinstance(observables, Mapping):
        raise InvalidInputError(
            f"`observables` must be a dict of names to datasets (or (dataset, batches_per_draw)); got "
            f"{type(observables).__name__}."
        )
    schema.check_names(observables, kind="observable")
    read = {}
    for name, value in observables.items():
        data, batches = value if _has_count(value) else (value, settings.batches_per_draw)
        if isinstance(batches, bool) or int(batches) < 1:
            raise InvalidInputError(
                f"observable {name!r}: batches_per_draw (={batches!r}) must be a positive whole number."
            )
        label = f"observable {name!r}"
        source = row_source(data, name=label)
        ids = observable_rows(settings, source.num_rows, int(batches), name=name)
        read[name] = Observable(source.read(ids, only_tokens=isinstance(loss, NextTokenLoss)), ids)
    return read


def _has_count(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], int | np.integer)
