"""Models by name: directories and revisions of the HuggingFace hub, and files of weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from devinterp import optional, sources
from devinterp.errors import InvalidInputError

_TORCH, _SAFETENSORS = (".pt", ".pth", ".bin", ".ckpt"), ".safetensors"
#: Where the weights are in files that hold more, such as a training run's.
_INSIDE = ("model", "state_dict", "model_state_dict")


def load_named(name: str) -> nn.Module | Mapping[str, Tensor]:
    """Return the model of a name, or the weights that a file holds.

    Parameters
    ----------
    name : str
        A file of weights (``.pt``, ``.pth``, ``.bin``, ``.ckpt``, ``.safetensors``), a directory with a model as
        transformers saves it, or a model of the HuggingFace hub, with ``@`` and a revision.

    Raises
    ------
    InvalidInputError
        If there is no such thing, or the file holds something else.
    """
    path = Path(name)
    if path.suffix == _SAFETENSORS or path.suffix in _TORCH:
        return _weights(path)
    repository, at, revision = name.partition("@")
    if at and not path.exists():
        return _module(sources.load_network(repository, revision=revision))
    return _module(sources.load_network(name))


def identity_of_file(name: str) -> str:
    """Return a text that changes when the files of a name do: their names, sizes and times; the name itself of the hub's."""
    path = Path(name)
    files = (
        [path]
        if path.is_file()
        else sorted(each for each in path.rglob("*") if each.is_file())
        if path.is_dir()
        else []
    )
    stats = [(each.name, each.stat().st_size, each.stat().st_mtime_ns) for each in files]
    return f"{path.absolute() if files else name} {stats}" if stats else name


def _weights(path: Path) -> Mapping[str, Tensor]:
    try:
        if path.suffix == _SAFETENSORS:
            content = optional.require("safetensors.torch").load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds
        raise InvalidInputError(f"cannot load weights from {str(path)!r}: {error}") from error
    while isinstance(content, Mapping) and not _holds_weights(content):
        inner = next((content[key] for key in _INSIDE if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not _holds_weights(content):
        raise InvalidInputError(
            f"{str(path)!r} holds no state dict: expected tensors by name, at its top or under one of {', '.join(_INSIDE)}."
        )
    return content


def _holds_weights(content: Mapping[Any, Any]) -> bool:
    return bool(content) and all(isinstance(each, Tensor) for each in content.values())


def _module(model: Any) -> nn.Module:
    assert isinstance(model, nn.Module)
    return model
