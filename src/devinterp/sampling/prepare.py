"""Turn what a user passes into a checked specification of a run, before anything is sampled or written."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from devinterp import arguments, plugins, schema
from devinterp.errors import InvalidInputError
from devinterp.kernels import build_transition
from devinterp.models.masks.param_masks import ParamMasks
from devinterp.models.parameter_check import check_parameters
from devinterp.models.restrictions import as_param_masks
from devinterp.models.structure.trace import FAILURES
from devinterp.models.wrappers import unwrapped
from devinterp.notes import note_once
from devinterp.sampling.chains.mala import proposes_langevin
from devinterp.sampling.data.datasets import row_source
from devinterp.sampling.data.rows import Rows
from devinterp.sampling.data.schedule import Schedule, observable_rows
from devinterp.sampling.data.tokens import as_tokens, check_tokens
from devinterp.sampling.engines.chunked_check import choose_loss
from devinterp.sampling.engines.position_check import choose_positions
from devinterp.sampling.engines.train_mode_check import why_unlike_eval
from devinterp.sampling.loss_check import check_gradient, check_loss
from devinterp.sampling.losses.identity import LossIdentity
from devinterp.sampling.losses.loss import CustomLoss, Loss, LossFunction, NextTokenLoss
from devinterp.sampling.model_guard import unchanged
from devinterp.sampling.recorders import run_recorders
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
    loss_identity: LossIdentity | None = None,
    adapter: str | ModelAdapter | None = None,
    device: str | torch.device | None = None,
    compile_backend: str = "",
    recorders: Any = None,
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
            rows, read = _of_tokens(model, loss, rows, read)
        read = {name: replace(each, rows=each.rows.placed(target)) for name, each in read.items()}
        notes = {f"weights/{name}": "; ".join(masks.notes) for name, masks in restrictions.items() if masks.notes}
        spec = RunSpec(
            model,
            loss,
            (),
            rows.placed(target),
            source.num_rows,
            read,
            restrictions,
            kernel,
            settings,
            notes,
            compile_backend=compile_backend,
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
        return replace(spec, recorders=run_recorders(spec, recorders, source, adapter))


def _of_tokens(
    model: nn.Module, loss: NextTokenLoss, rows: Rows, read: Mapping[str, Observable]
) -> tuple[Rows, dict[str, Observable]]:
    """Return the token ids of a dataset and of observables, checked to be such that the model reads."""
    tokens = {"`dataset`": rows, **{f"observable {name!r}": each.rows for name, each in read.items()}}
    tokens = {name: as_tokens(each, name=name) for name, each in tokens.items()}
    for name, each in tokens.items():
        # Before the model sees any: it fails in its own way on what is no token ids.
        check_tokens(each, None, name=name, check_range=False)
    try:
        vocab_size = loss.adapter.vocab_size(model)
    except FAILURES as error:
        raise InvalidInputError(
            f"the default loss is that of the next token, and {type(model).__name__} cannot be run on token ids: "
            f"{type(error).__name__}: {error}. Pass `loss_fn=`, a function of (model, batch)."
        ) from error
    for name, each in tokens.items():
        check_tokens(each, vocab_size, name=name)
    return tokens["`dataset`"], {n: replace(each, rows=tokens[f"observable {n!r}"]) for n, each in read.items()}


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


def check_model(model: nn.Module) -> nn.Module:
    """Return the module to sample, without what wraps it.

    Raises
    ------
    InvalidInputError
        If it is no module, or its parameters cannot be used.
    """
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
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
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
        masks = _named("param_masks", model, param_masks, trainable)
        name = masks.description if isinstance(param_masks, (str, ParamMasks)) or param_masks is None else "custom"
        return {name or "custom": masks}
    if param_masks is not None:
        raise InvalidInputError("`param_masks` and `weight_restrictions` both say what is sampled: pass only one.")
    if not isinstance(weight_restrictions, Mapping):
        weight_restrictions = {name: name for name in arguments.names("weight_restrictions", weight_restrictions)}
    if not weight_restrictions:
        raise InvalidInputError("`weight_restrictions` is empty: name at least one, for example {'full': None}.")
    if "" in weight_restrictions:
        raise InvalidInputError("a name in `weight_restrictions` is empty: name each, for example {'full': None}.")
    return {name: _named("weight_restrictions", model, masks, trainable) for name, masks in weight_restrictions.items()}


def _named(argument: str, model: nn.Module, masks: Any, trainable: Collection[str]) -> ParamMasks:
    try:
        return as_param_masks(model, masks, trainable=trainable)
    except InvalidInputError as error:
        raise error if f"`{argument}`" in str(error) else InvalidInputError(f"`{argument}`: {error}") from error


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
