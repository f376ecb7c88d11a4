"""Hash of a model's weights, whose parts are hashed side by side: one thread takes seconds for each gigabyte."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from devinterp.sampling.losses.identity import update_with_tensor

#: Bytes that one thread hashes at a time. Part of what the hash is: another number gives another hash.
PART = 32 * 2**20
#: What a hash of this form begins with; those of earlier stores are bare hexadecimal digits.
PREFIX = "sha256-parts "


def hash_weights(model: nn.Module, *, like: str = PREFIX) -> str:
    """Return a hash of all parameters and persistent buffers of a model, by name, dtype, shape and bytes.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    like : str, optional
        A hash that the result is to be compared with: it is made in the same form.
    """
    weights = model.state_dict()
    return hash_tensors(weights) if like.startswith(PREFIX) else _hash_one_after_the_other(weights)


def hash_tensors(tensors: Mapping[str, Any]) -> str:
    """Return a hash of tensors by name, dtype, shape and bytes; what is no tensor is left out.

    Parameters
    ----------
    tensors : mapping of str to torch.Tensor
        As of ``state_dict()``.
    """
    named = [(name, tensor.detach()) for name, tensor in tensors.items() if isinstance(tensor, Tensor)]
    digest = hashlib.sha256()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        small = sum(tensor.nbytes for _, tensor in named) <= PART  # threads would take longer to start
        hashes = (map if small else threads.map)(_hash_part, (part for _, tensor in named for part in _parts(tensor)))
        for name, tensor in named:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            for _ in range(_num_parts(tensor)):
                digest.update(next(hashes))
    return PREFIX + digest.hexdigest()[:32]


def same_form(one: str, other: str) -> bool:
    """Say whether two hashes of weights can be compared."""
    return one.startswith(PREFIX) == other.startswith(PREFIX)


def _num_parts(tensor: Tensor) -> int:
    return -(-tensor.nbytes // PART)


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """Yield a tensor's bytes in parts, on its own device."""
    if not tensor.numel():
        return
    # Bytes rather than values: bfloat16 has no numpy counterpart.
    yield from tensor.contiguous().reshape(-1).view(torch.uint8).split(PART)  # type: ignore[no-untyped-call]


def _hash_part(part: Tensor) -> bytes:
    return hashlib.sha256(part.cpu().numpy().data).digest()


def _hash_one_after_the_other(tensors: Mapping[str, Any]) -> str:
    """Return the hash that stores were given before parts were hashed side by side."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor):
            update_with_tensor(digest, name, tensor)
    return digest.hexdigest()
