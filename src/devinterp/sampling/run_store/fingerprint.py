"""What a run is: its configuration, and fingerprints of everything else that decides its numbers."""

from __future__ import annotations

import hashlib
import inspect
import json
import platform
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from devinterp.models.masks.param_masks import ParamMasks
from devinterp.sampling.data.columns import leaves
from devinterp.sampling.data.rows import Rows
from devinterp.sampling.losses.loss import CustomLoss, Loss, LossFunction, NextTokenLoss
from devinterp.sampling.spec import RunSpec

_PACKAGES = ("devinterp", "torch", "numpy", "xarray", "zarr", "transformers")


def config(spec: RunSpec) -> dict[str, Any]:
    """Return every setting of a run as JSON-able values: the root attribute ``config``."""
    return {
        **spec.settings.to_config(),
        "sampling_method": spec.kernel.name,
        "weight_restrictions": list(spec.restrictions),
        "observables": {name: len(o.sequence_id) for name, o in spec.observables.items()},
        "loss_dims": list(spec.loss_dims),
    }


def fingerprints(spec: RunSpec) -> dict[str, Any]:
    """Return a hash for each thing that decides a run's numbers and is no setting."""
    return {
        "model": describe_model(spec.model),
        "weights": hash_weights(spec.model),
        "dataset": hash_rows(spec.rows),
        "loss": describe_loss(spec.loss),
        "masks": {name: hash_masks(masks) for name, masks in spec.restrictions.items()},
        "observables": {name: hash_rows(o.rows) for name, o in spec.observables.items()},
    }


def provenance(spec: RunSpec, fingerprints: Mapping[str, Any]) -> dict[str, Any]:
    """Return where, when and from what a run is made, its `fingerprints` among it: the root attribute ``provenance``."""
    return {
        "fingerprints": dict(fingerprints),
        "paths": dict(spec.choices),
        "model": type(spec.model).__qualname__,
        "name_or_path": str(getattr(spec.model, "name_or_path", "")),  # HuggingFace keeps where weights came from
        "num_parameters": sum(p.numel() for p in spec.model.parameters()),
        "device": str(spec.device),
        "host": platform.node(),
        "python": sys.version.split()[0],
        "packages": {name: number for name in _PACKAGES if (number := _version(name)) is not None},
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def differences(stored: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return one line for each entry in which two configurations or fingerprints differ."""
    lines = []
    for key in dict.fromkeys([*stored, *wanted]):
        have, want = stored.get(key), wanted.get(key)
        if isinstance(have, Mapping) and isinstance(want, Mapping):
            lines += differences(have, want, f"{prefix}{key}.")
        elif have != want:
            lines.append(f"{prefix}{key}: the store has {_short(have)}, this run {_short(want)}")
    return lines


def describe_model(model: nn.Module) -> str:
    """Return the class of a model and the mode it is in, which decides on dropout and batch statistics."""
    training = [module.training for module in model.modules()]
    mode = "train mode" if all(training) else f"train mode in {sum(training)} modules" if any(training) else "eval mode"
    return f"{type(model).__qualname__} in {mode}"


def hash_weights(model: nn.Module) -> str:
    """Return a hash of all parameters and persistent buffers of a model, by name, dtype, shape and bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, Tensor):
            _update(digest, name, tensor)
    return digest.hexdigest()


def hash_rows(rows: Rows) -> str:
    """Return a hash of rows of a dataset and of which rows they are."""
    digest = hashlib.blake2b(rows.ids.tobytes(), digest_size=16)
    for name, leaf in leaves(rows.data, "data"):
        if isinstance(leaf, Tensor):
            _update(digest, name, leaf)
        else:
            _update_value(digest, [name, [[each, _held(each)] for each in leaf]], {})
    if rows.attention_mask is not None:
        _update(digest, "attention_mask", rows.attention_mask)
    if isinstance(rows.data, Tensor) and rows.counted is not None and not _only_padding(rows):
        _update(digest, "counted", rows.counted)
    if rows.padded_before_text is not None and bool(rows.padded_before_text.any()):
        digest.update(b"positions count tokens of text")  # earlier versions counted padding, too: their runs are others
    return digest.hexdigest()


def _only_padding(rows: Rows) -> bool:
    """Say whether the losses that do not count are those of padding, which the attention mask says already."""
    mask = rows.attention_mask
    return mask is not None and torch.equal(rows.counted, mask[:, :-1] & mask[:, 1:])  # type: ignore[arg-type]


def hash_masks(masks: ParamMasks) -> str:
    """Return a hash of the sampled elements, the order of parameters included (it is the order of the noise)."""
    digest = hashlib.blake2b(digest_size=16)
    for name, mask in masks.items():
        digest.update(f"{name}{mask.shape}".encode())
        if mask.is_whole:
            continue
        if mask.index is None:
            digest.update(np.packbits(mask.to_bool().numpy()).tobytes())
        else:
            for index in mask.index:
                digest.update(b"all" if index is None else index.numpy().tobytes())
    return digest.hexdigest()


def describe_loss(loss: Loss) -> str:
    """Return what identifies a loss: a name for ours, name and a hash of its source and closure for a user's."""
    if isinstance(loss, NextTokenLoss):
        return f"next-token cross-entropy ({loss.adapter.name})"
    assert isinstance(loss, CustomLoss)
    return _describe_function(loss.function)


def _describe_function(function: LossFunction) -> str:
    named = function.func if isinstance(function, partial) else function
    digest = hashlib.blake2b(digest_size=16)
    _update_value(digest, function, {})
    return f"{getattr(named, '__qualname__', type(named).__qualname__)} {digest.hexdigest()}"


def _update_value(digest: Any, value: Any, seen: dict[int, Any]) -> None:
    """Add to a hash what a loss function is, or holds: source, constants, tensors, and functions of its own module.

    What is none of these (an open file, a logger) adds only its type.
    """
    if id(value) in seen:
        return
    digest.update(type(value).__qualname__.encode())
    if value is None or isinstance(value, str | int | float | complex | bytes):
        digest.update(repr(value).encode())
        return
    seen[id(value)] = value  # held, so that nothing else gets its id meanwhile
    if isinstance(value, Tensor):
        _update(digest, "", value)
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    else:
        for part in _parts(value):
            _update_value(digest, part, seen)


def _parts(value: Any) -> Iterable[Any]:
    """Return what a function, a container or an object is made of."""
    if isinstance(value, FunctionType):
        cells = [_contents(cell) for cell in value.__closure__ or ()]
        return [_source(value), value.__defaults__, value.__kwdefaults__, *cells, *_own_globals(value)]
    if isinstance(value, MethodType):
        return [value.__func__, *_held(value.__self__)]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, nn.Module):
        return [value.state_dict(), value.training, _source(type(value))]
    if isinstance(value, Mapping):
        return [part for item in value.items() for part in item]
    if isinstance(value, list | tuple):
        return value
    if isinstance(value, set | frozenset):
        return sorted(repr(part) for part in value if isinstance(part, str | int | float))
    return _held(value) if callable(value) or is_dataclass(value) else []


def _held(value: Any) -> list[Any]:
    if isinstance(value, nn.Module):
        return [value]
    return [_source(type(value)), vars(value)] if not isinstance(value, type) and hasattr(value, "__dict__") else []


def _contents(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet bound
        return None


def _own_globals(function: FunctionType) -> list[Any]:
    """Return the constants a function takes from its module, and the functions it calls there."""
    parts: list[Any] = []
    for name in sorted({name for code in _codes(function.__code__) for name in code.co_names}):
        value = function.__globals__.get(name)
        theirs = isinstance(value, FunctionType) and value.__module__ != function.__module__
        if not theirs and not isinstance(value, ModuleType | type):
            parts += [name, value]
    return parts


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yield a function's code and that of the functions written inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _source(value: FunctionType | type) -> str:
    try:
        return textwrap.dedent(inspect.getsource(value))
    except (OSError, TypeError):  # typed in at a prompt, or compiled
        code = getattr(value, "__code__", None)
        return (
            "" if code is None else f"{code.co_code.hex()}{[c for c in code.co_consts if not isinstance(c, CodeType)]}"
        )


def _update(digest: Any, name: str, tensor: Tensor) -> None:
    digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
    # Bytes rather than values: bfloat16 has no numpy counterpart.
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _version(package: str) -> str | None:
    if package == "torch":
        return str(torch.__version__)  # names the build (+cpu, +cu130), which the metadata may leave out
    try:
        return version(package)
    except PackageNotFoundError:
        return None
