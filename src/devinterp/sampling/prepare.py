"""Turn what a user passes into a checked specification of a run, before anything is sampled or written."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from devinterp import plugins, schema
from devinterp.errors import InvalidInputError
from devinterp.kernels import build_transition
from devinterp.models.masks.param_masks import ParamMasks
from devinterp.models.restrictions import as_param_masks
from devinterp.sampling.chains.initial_loss import check_finite_weights
from devinterp.sampling.chains.mala import proposes_langevin
from devinterp.sampling.data.datasets import as_tokens, check_tokens, num_rows, read_rows
from devinterp.sampling.data.schedule import Schedule, observable_rows
from devinterp.sampling.engines.chunked_check import choose_loss
from devinterp.sampling.engines.train_mode_check import why_unlike_eval
from devinterp.sampling.losses.loss import CustomLoss, Loss, LossFunction, NextTokenLoss, check_losses
from devinterp.sampling.model_guard import unchanged
from devinterp.sampling.settings import Settings
from devinterp.sampling.spec import Observable, RunSpec
from devinterp.types import Kernel, ModelAdapter


def prepare(
    model: nn.Module,
    dataset: Any,
    observables: Mapping[str, Any] | None,
    settings: Settings,
    *,
    restrictions: Mapping[str, ParamMasks],
    loss_fn: LossFunction | None = None,
    loss_dims: Sequence[str] | None = None,
    adapter: str | ModelAdapter | None = None,
    device: str | torch.device | None = None,
    compile_backend: str = "",
) -> RunSpec:
    """Return the checked run.

    Raises
    ------
    InvalidInputError
        If the model, the data, the loss or the settings cannot be used; nothing has been sampled or written.
    """
    kernel = check_kernel(settings)
    check_finite_weights(model)
    model = on_device(model, device)
    with unchanged(model):  # the mode it is in may let a forward pass change its buffers
        target = next(model.parameters()).device
        total = num_rows(dataset, name="`dataset`")
        rows = read_rows(dataset, Schedule(settings, total).rows(), name="`dataset`").to(target)
        read = _read_observables(observables or {}, settings, target)
        loss = _make_loss(model, loss_fn, adapter)
        if isinstance(loss, NextTokenLoss):
            rows = as_tokens(rows, name="`dataset`")
            read = {n: replace(o, rows=as_tokens(o.rows, name=f"observable {n!r}")) for n, o in read.items()}
            vocab_size = loss.adapter.vocab_size(model)
            check_tokens(rows, vocab_size, name="`dataset`")
            for name, observable in read.items():
                check_tokens(observable.rows, vocab_size, name=f"observable {name!r}")
        spec = RunSpec(
            model, loss, (), rows, total, read, restrictions, kernel, settings, compile_backend=compile_backend
        )
        spec = replace(spec, loss_dims=check_loss(spec, loss_dims))
        if isinstance(loss, CustomLoss):
            check_gradient(spec)
        spec = replace(spec, unlike_eval=check_mode(spec))
        if isinstance(loss, NextTokenLoss):
            batch, mask = rows.batch(rows.ids[: min(settings.batch_size, 2)])
            assert isinstance(batch, torch.Tensor)
            loss, note = choose_loss(loss, model, batch, mask)
            spec = replace(spec, loss=loss, choices={"loss": note})
        return spec


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


def check_model(model: object) -> None:
    """Raise unless this is a module with something to sample."""
    if not isinstance(model, nn.Module):
        raise InvalidInputError(f"`model` must be a torch.nn.Module; got {type(model).__name__}.")
    if not any(True for _ in model.parameters()):
        raise InvalidInputError(f"{type(model).__name__} has no parameters: there is nothing to sample.")


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
    model: nn.Module, param_masks: Any, weight_restrictions: Mapping[str, Any] | Sequence[str] | None
) -> dict[str, ParamMasks]:
    """Return the restrictions of a run by name, from either way of giving them.

    Raises
    ------
    InvalidInputError
        If both are given, none is left, or a mask cannot be used.
    """
    if weight_restrictions is None:
        masks = as_param_masks(model, param_masks)
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
    return {name: as_param_masks(model, masks) for name, masks in weight_restrictions.items()}


def check_loss(spec: RunSpec, loss_dims: Sequence[str] | None) -> tuple[str, ...]:
    """Try the loss on a few rows of each data set; return the names of the dims of one sample's loss."""
    custom = isinstance(spec.loss, CustomLoss)
    source = "`loss_fn`" if custom else type(spec.loss).__name__
    sources = {"`dataset`": (spec.rows, spec.rows.ids)}
    sources |= {f"observable {name!r}": (o.rows, o.sequence_id) for name, o in spec.observables.items()}
    dims: tuple[str, ...] = ()
    for name, (rows, ids) in sources.items():
        few = ids[:2]  # shapes show on two rows, and the plain path is slow
        batch, mask = rows.batch(few)
        with torch.no_grad():
            losses = spec.loss.losses(spec.model, batch, mask)
        expected = (rows.token_ids.shape[1] - 1,) if rows.token_ids is not None and loss_dims is None else None
        checked = check_losses(
            losses,
            num_samples=len(few),
            expected=expected,
            source=f"{source} on {name}",
        )
        dims = _name_dims(checked.shape[1:], rows.token_ids is not None, loss_dims, f"{source} on {name}")
    return dims


def check_gradient(spec: RunSpec) -> None:
    """Raise unless the loss can be differentiated with respect to the model's parameters."""
    batch, mask = spec.rows.batch(spec.rows.ids[:2])
    with unchanged(spec.model):
        for parameter in spec.model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        losses = spec.loss.losses(spec.model, batch, mask)
    if not losses.requires_grad:
        raise InvalidInputError(
            "`loss_fn` returned losses without a gradient: compute them with torch from the model's output, and leave out "
            "`torch.no_grad()`, `.detach()` and `.item()`."
        )


def check_mode(spec: RunSpec) -> str:
    """Return what makes the model, in train mode, differ from eval mode; raise where a metric needs that nothing does."""
    batch, mask = spec.rows.batch(spec.rows.ids[: spec.settings.batch_size])
    reason = why_unlike_eval(spec.model, lambda: spec.loss.losses(spec.model, batch, mask))
    if reason and schema.MALA_ACCEPTANCE in spec.settings.metric_names:
        raise InvalidInputError(
            f"`save_metrics`: {schema.MALA_ACCEPTANCE!r} compares losses of a model in eval mode, and in train mode {reason}: "
            "call `model.eval()`."
        )
    return reason


def _name_dims(shape: Sequence[int], is_text: bool, loss_dims: Sequence[str] | None, source: str) -> tuple[str, ...]:
    if loss_dims is None:
        loss_dims = (schema.POSITION,) if is_text else ()
    if len(loss_dims) != len(shape):
        raise InvalidInputError(
            f"{source} returned losses with trailing shape {tuple(shape)}, but `loss_dims` names {len(loss_dims)} "
            f"({', '.join(loss_dims) or 'none'}): name each, for example loss_dims=('height', 'width')."
        )
    return tuple(loss_dims)


def _make_loss(model: nn.Module, loss_fn: LossFunction | None, adapter: str | ModelAdapter | None) -> Loss:
    if loss_fn is None:
        return NextTokenLoss(plugins.adapter_for(model, adapter))
    if not callable(loss_fn):
        raise InvalidInputError(f"`loss_fn` must be a function of (model, batch); got {type(loss_fn).__name__}.")
    return CustomLoss(loss_fn)


def _read_observables(
    observables: Mapping[str, Any], settings: Settings, device: torch.device
) -> dict[str, Observable]:
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
        ids = observable_rows(settings, num_rows(data, name=label), int(batches), name=name)
        read[name] = Observable(read_rows(data, ids, name=label).to(device), ids)
    return read


def _has_count(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], int | np.integer)
