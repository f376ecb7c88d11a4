"""Which parameters of a model can be sampled: one check before anything is run, and why one cannot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from devinterp.errors import InvalidInputError

#: At most so many names are listed in a message.
_NAMED = 3


def check_parameters(model: nn.Module) -> None:
    """Raise unless a model's parameters are there: initialized, loaded, whole, on one device, and finite.

    Raises
    ------
    InvalidInputError
        Naming parameters that are not, and saying what to do.
    """
    parameters = dict(model.named_parameters())
    if not parameters:
        raise InvalidInputError(f"{type(model).__name__} has no parameters: there is nothing to sample.")
    _refuse(
        (name for name, p in parameters.items() if isinstance(p, nn.parameter.UninitializedParameter)),
        "not initialized: run the model once, so that lazy modules know their shapes",
    )
    tensors = {**parameters, **dict(model.named_buffers())}
    _refuse(
        (name for name, tensor in tensors.items() if tensor.is_meta),
        "on the meta device, without values: load the whole model onto one device (without offload, or `device_map`), "
        "or call `to_empty` and load its weights",
    )
    _refuse(
        (name for name, p in parameters.items() if type(p.data).__name__ == "DTensor"),
        "divided among processes (DTensor): pass the whole model on one device",
    )
    by_device: dict[str, str] = {}
    for name, p in parameters.items():
        by_device.setdefault(str(p.device), name)
    if len(by_device) > 1:
        places = ", ".join(f"{name!r} on {device}" for device, name in by_device.items())
        raise InvalidInputError(
            f"the model is on several devices ({places}): a chain has one generator of noise, on one device. Load it onto one "
            "device (`device_map={'': 0}`); `workers=` spreads chains over GPUs."
        )
    for name, p in parameters.items():
        if not _is_finite(p.detach()):
            raise InvalidInputError(
                f"parameter {name!r} of the model holds values that are not finite: load the weights again."
            )


def check_sampled(model: nn.Module, names: Iterable[str]) -> None:
    """Raise unless parameters can be moved: of real floating-point numbers, each element in memory of its own.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    names : iterable of str
        The parameters that a run is to move.

    Raises
    ------
    InvalidInputError
        Naming those that cannot.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    chosen = {name: parameters[name] for name in names}
    for name, p in chosen.items():
        reason = why_not_sampled(p)
        if reason:
            raise InvalidInputError(f"parameter {name!r} cannot be sampled: {reason}. Leave it out of `param_masks`.")
    for name, p in chosen.items():
        if any(size > 1 and stride == 0 for size, stride in zip(p.shape, p.stride(), strict=True)):
            raise InvalidInputError(
                f"parameter {name!r} is expanded, so that several of its elements are one number: make it "
                "contiguous, or hold the smaller tensor and expand it in `forward`."
            )
    for name, other in _sharing(parameters):
        if name in chosen or other in chosen:
            raise InvalidInputError(
                f"parameters {name!r} and {other!r} share memory without being one parameter, so that moving one moves the "
                "other: make them one (`module.weight = other.weight`), or copy one (`nn.Parameter(p.detach().clone())`)."
            )


def why_not_sampled(parameter: Tensor) -> str | None:
    """Return why a parameter's numbers cannot be moved in small steps, or None where they can."""
    dtype = parameter.dtype
    if dtype.is_complex:
        return f"its dtype is {dtype}; hold real and imaginary parts as two parameters"
    if not dtype.is_floating_point:
        return f"its dtype is {dtype}, whole or packed numbers, which do not move in small steps"
    if dtype.itemsize < 2:
        return f"its dtype is {dtype}, too coarse to move in small steps"
    if type(parameter.data) is not Tensor:
        return f"its values are of the type {type(parameter.data).__name__}, not a plain tensor"
    return None


def default_names(model: nn.Module, trainable: Iterable[str]) -> list[str]:
    """Return the parameters that are sampled where nothing is said: those that are trained, as in DevInterp 2.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    trainable : iterable of str
        Its parameters that required gradients when it was passed.

    Raises
    ------
    InvalidInputError
        If there are none.
    """
    wanted = set(trainable)
    # Complex numbers are refused by name further on; whole and packed ones stay where they are.
    names = [
        name
        for name, p in model.named_parameters()
        if name in wanted and p.numel() and (p.is_complex() or why_not_sampled(p) is None)
    ]
    if not names:
        raise InvalidInputError(
            f"all parameters of {type(model).__name__} have requires_grad=False, and such parameters stay where they are "
            "unless they are named: pass param_masks='full' to sample all, or call `model.requires_grad_()`."
        )
    return names


def trainable_names(model: nn.Module) -> frozenset[str]:
    """Return the names of the parameters that require gradients."""
    return frozenset(name for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad)


def note_of_frozen(model: nn.Module, names: Sequence[str]) -> str:
    """Return a sentence about the parameters that stay where they are; empty where all of them are sampled."""
    sampled = set(names)
    rest = {name: p for name, p in model.named_parameters() if name not in sampled and p.numel()}
    if not rest:
        return ""
    total = sum(p.numel() for p in model.parameters())
    num = sum(p.numel() for p in rest.values())
    return f"{num:,} of {total:,} weights stay, because they have requires_grad=False or hold no floats: {listed(rest)}"


def listed(names: Iterable[str]) -> str:
    """Return names for a message, a few of them where there are many."""
    every = [repr(name) for name in names]
    more = f" and {len(every) - _NAMED} more" if len(every) > _NAMED else ""
    return ", ".join(every[:_NAMED]) + more


def _refuse(names: Iterator[str], why: str) -> None:
    every = list(names)
    if every:
        kind = "parameters" if len(every) > 1 else "parameter"
        raise InvalidInputError(f"{kind} {listed(every)} of the model {'are' if len(every) > 1 else 'is'} {why}.")


def _is_finite(values: Tensor) -> bool:
    if not (values.is_floating_point() or values.is_complex()) or not values.numel():
        return True
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
    if values.dtype.itemsize < 2:
        values = values.to(torch.float32)
    # The sum of a tensor is finite only if all entries are (up to overflow, which the exact test then settles).
    return math.isfinite(float(values.sum(dtype=torch.float32))) or bool(torch.isfinite(values).all())


def _sharing(parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, str]]:
    """Yield pairs of different parameters that have an element in common, in the order of their names."""
    order = {name: n for n, name in enumerate(parameters)}
    distinct = {id(p): name for name, p in list(parameters.items())[::-1]}
    plain = {name: p for name, p in parameters.items() if distinct[id(p)] == name and _has_memory(p)}
    active: list[tuple[int, str]] = []  # where each ends that began before and is not over
    for start, end, name in sorted((*_span(p), name) for name, p in plain.items()):
        active = [(until, other) for until, other in active if until > start]
        for _, other in active:
            if plain[name].device == plain[other].device and _overlap(plain[name], plain[other]):
                first, second = sorted((name, other), key=order.__getitem__)
                yield first, second
        active.append((end, name))


def _has_memory(parameter: Tensor) -> bool:
    return type(parameter.data) is Tensor and not parameter.is_meta and parameter.numel() > 0


def _overlap(p: Tensor, q: Tensor) -> bool:
    """Say whether two tensors, the bytes of which intersect from first to last, have an element in common."""
    if p.is_contiguous() and q.is_contiguous():
        return True
    storage = p.untyped_storage()
    if storage.data_ptr() != q.untyped_storage().data_ptr() or p.dtype != q.dtype:
        return True
    marks = torch.zeros(storage.nbytes() // p.element_size(), dtype=torch.bool)
    marks.as_strided(p.shape, p.stride(), p.storage_offset()).fill_(True)
    return bool(marks.as_strided(q.shape, q.stride(), q.storage_offset()).any())


def _span(tensor: Tensor) -> tuple[int, int]:
    """Return the first byte of a tensor and the one after its last."""
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (reach + 1) * tensor.element_size()
