"""What a run is: its configuration, and fingerprints of everything else that decides its numbers."""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from devinterp.models.masks.param_masks import ParamMasks
from devinterp.sampling.data.columns import leaves
from devinterp.sampling.data.rows import Rows
from devinterp.sampling.losses.identity import held, update_with_tensor, update_with_value
from devinterp.sampling.losses.loss import CustomLoss, Loss, NextTokenLoss
from devinterp.sampling.run_store.weights_hash import PREFIX, hash_weights
from devinterp.sampling.spec import RunRecorder, RunSpec

_PACKAGES = ("devinterp", "torch", "numpy", "xarray", "zarr", "transformers")


def config(spec: RunSpec) -> dict[str, Any]:
    """Return every setting of a run as JSON-able values: the root attribute ``config``."""
    return {
        **spec.settings.to_config(),
        "sampling_method": spec.kernel.name,
        "weight_restrictions": list(spec.restrictions),
        "observables": {name: len(o.sequence_id) for name, o in spec.observables.items()},
        "loss_dims": list(spec.loss_dims),
        **_if_any(
            "recorders", {name: {"recorder": each.kind, **each.settings} for name, each in spec.recorders.items()}
        ),
    }


def fingerprints(spec: RunSpec, *, like: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return a hash for each thing that decides a run's numbers and is no setting.

    Parameters
    ----------
    spec : RunSpec
        The run.
    like : mapping, optional
        Stored ones that these are to be compared with: hashes are made in the same form.
    """
    return {
        "model": describe_model(spec.model),
        "weights": hash_weights(spec.model, like=(like or {}).get("weights", PREFIX)),
        "dataset": hash_rows(spec.rows),
        "loss": describe_loss(spec.loss),
        "masks": {name: hash_masks(masks) for name, masks in spec.restrictions.items()},
        "observables": {name: hash_rows(o.rows) for name, o in spec.observables.items()},
        **_if_any("recorders", {name: hash_recorder(each) for name, each in spec.recorders.items()}),
    }


def _if_any(name: str, entries: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of what not every run has: stores without it stay as they were."""
    return {name: entries} if entries else {}


def provenance(spec: RunSpec, fingerprints: Mapping[str, Any]) -> dict[str, Any]:
    """Return where, when and from what a run is made, its `fingerprints` among it: the root attribute ``provenance``."""
    return {
        "fingerprints": dict(fingerprints),
        "loss_parts": loss_parts(spec.loss),
        "paths": dict(spec.choices),
        "model": type(spec.model).__qualname__,
        "name_or_path": str(getattr(spec.model, "name_or_path", "")),  # HuggingFace keeps where weights came from
        "num_parameters": sum(p.numel() for p in spec.model.parameters()),
        "device": str(spec.device),
        **environment(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def environment() -> dict[str, Any]:
    """Return the machine, Python, and the versions of the packages on which numbers depend."""
    return {
        "host": platform.node(),
        "python": sys.version.split()[0],
        "packages": {name: number for name in _PACKAGES if (number := _version(name)) is not None},
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


def hash_rows(rows: Rows) -> str:
    """Return a hash of rows of a dataset and of which rows they are."""
    digest = hashlib.blake2b(rows.ids.tobytes(), digest_size=16)
    for name, leaf in leaves(rows.data, "data"):
        if isinstance(leaf, Tensor):
            update_with_tensor(digest, name, leaf)
        else:
            update_with_value(digest, [name, [[each, held(each)] for each in leaf]])
    if rows.attention_mask is not None:
        update_with_tensor(digest, "attention_mask", rows.attention_mask)
    if isinstance(rows.data, Tensor) and rows.counted is not None and not _only_padding(rows):
        update_with_tensor(digest, "counted", rows.counted)
    if rows.padded_before_text is not None and bool(rows.padded_before_text.any()):
        digest.update(b"positions count tokens of text")  # earlier versions counted padding, too: their runs are others
    return digest.hexdigest()


def hash_recorder(recorder: RunRecorder) -> str:
    """Return a hash of what a recorder reads, and of its settings that are no JSON."""
    digest = hashlib.blake2b(f"{recorder.kind} {recorder.other_settings}".encode(), digest_size=16)
    for rows in recorder.rows:
        digest.update(hash_rows(rows).encode())
    return digest.hexdigest()


def _only_padding(rows: Rows) -> bool:
    """Say whether the losses that do not count are those of padding, which the attention mask says already."""
    mask = rows.attention_mask
    return mask is not None and torch.equal(rows.counted, mask[:, :-1] & mask[:, 1:])  # type: ignore[arg-type]


def hash_masks(masks: ParamMasks) -> str:
    """Return a hash of the sampled elements, the order of parameters included (it is the order of the noise)."""
    digest = hashlib.blake2b(digest_size=16)
    for name, mask in masks.items():
        digest.update(f"{name}{tuple(mask.shape)}".encode())
        if mask.is_whole:
            continue
        if mask.index is None:
            digest.update(np.packbits(mask.to_bool().numpy()).tobytes())
        else:
            for index in mask.index:
                digest.update(b"all" if index is None else index.numpy().tobytes())
    return digest.hexdigest()


def describe_loss(loss: Loss) -> str:
    """Return what identifies a loss: a name for ours, what `loss_identity` says of a user's."""
    if isinstance(loss, NextTokenLoss):
        return f"next-token cross-entropy ({loss.adapter.name})"
    assert isinstance(loss, CustomLoss)
    return loss.identity.text


def loss_parts(loss: Loss) -> dict[str, str]:
    """Return a hash of each variable that a user's loss depends on, by name."""
    return dict(loss.identity.parts) if isinstance(loss, CustomLoss) else {}


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _version(package: str) -> str | None:
    # Of torch the name of the build, too (+cpu, +cu130), which the metadata may leave out.
    return str(torch.__version__) if package == "torch" else _installed_version(package)


@cache  # reading the metadata of a package takes milliseconds
def _installed_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
