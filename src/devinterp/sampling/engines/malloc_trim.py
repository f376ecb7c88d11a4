"""Freed memory of the host is given back to the system while gradients are made.

In a backward pass activations are freed one by one as gradients are made. glibc keeps what is freed in its heap, but few
gradients fit into the holes: the process ends up holding half as much again as it uses. On a GPU torch's own allocator
takes care of that.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

#: Giving memory back costs the time to map it again: only where gradients are large, and where much is freed.
_MIN_GRADIENT_BYTES = 256 * 2**20
_GRADIENT_BYTES_BETWEEN = 144 * 2**20
_MIN_FREED_BYTES = 48 * 2**20


class _Mallinfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    # All are numbers; of the ten only `fordblks` matters, what is free.
    _fields_ = [("before", ctypes.c_size_t * 8), ("fordblks", ctypes.c_size_t), ("keepcost", ctypes.c_size_t)]


@contextmanager
def trimmed(model: nn.Module, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Keep the heap small while gradients of large parameters are made inside; do nothing without glibc or on a GPU.

    Parameters
    ----------
    model : torch.nn.Module
        What is run.
    parameters : sequence of torch.nn.Parameter
        What gradients are made for.
    """
    on_host = sum(p.nbytes for p in parameters if p.device.type == "cpu")
    if on_host < _MIN_GRADIENT_BYTES or _glibc() is None:
        yield
        return
    made = 0

    def after_forward(*_: object) -> None:
        if torch.is_grad_enabled():
            _trim()

    def after_gradient(parameter: Tensor) -> None:
        nonlocal made
        made += parameter.nbytes
        if made >= _GRADIENT_BYTES_BETWEEN:
            made = 0
            _trim()

    hooks = [p.register_post_accumulate_grad_hook(after_gradient) for p in parameters]  # type: ignore[no-untyped-call]
    hooks.append(model.register_forward_hook(after_forward))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _trim() -> None:
    glibc = _glibc()
    if glibc is not None and glibc.mallinfo2().fordblks >= _MIN_FREED_BYTES:
        glibc.malloc_trim(0)


@functools.cache
def _glibc() -> ctypes.CDLL | None:
    """Return the C library of this process if it is glibc 2.33 or later, which says how much is free."""
    try:
        library = ctypes.CDLL(None)
        library.mallinfo2.restype = _Mallinfo
        library.malloc_trim.argtypes = [ctypes.c_size_t]
    except (OSError, TypeError, AttributeError):
        return None
    return library
