"""The caller's model comes back unchanged, whatever happens while it is sampled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Put back, whatever happens, the buffers, gradients and ``requires_grad`` flags of a model; inside, all flags are off."""
    saved = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    # A forward pass may write into buffers (batch-norm statistics of a model in train mode) or put others in their place
    # (rotary tables that grow); they are small.
    buffers = [
        (module, name, buffer, None if buffer is None else buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
    ]
    for parameter, _, _ in saved:
        parameter.requires_grad_(False)
        parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, before in buffers:
                if buffer is not None and before is not None:
                    buffer.copy_(before)
                module._buffers[name] = buffer
        for parameter, requires_grad, gradient in saved:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient


@contextmanager
def own_randomness(seed: int, *, cuda: bool) -> Iterator[None]:
    """Let whatever draws from the global generators of torch inside (dropout) draw from a seed, and put them back.

    Parameters
    ----------
    seed : int
        Of the streams inside.
    cuda : bool
        Whether anything runs on CUDA devices.
    """
    devices = range(torch.cuda.device_count()) if cuda and torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=devices):
        # Not `torch.manual_seed`, which would leave a seed behind for devices that are not in use yet.
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        yield


@contextmanager
def sheltered(model: nn.Module, device: object, *, seed: int) -> Iterator[None]:
    """Keep a run and its surroundings apart: the model comes back unchanged, and so do torch's global generators.

    Gradients are on inside, whatever the caller switched off.

    Parameters
    ----------
    model : torch.nn.Module
        The caller's model.
    device : str, torch.device or None
        Where it will be sampled.
    seed : int
        Seeds what draws from the global generators inside, such as dropout in train mode.
    """
    cuda = "cuda" in str(device) or any(p.is_cuda for p in model.parameters())
    with torch.inference_mode(False), torch.enable_grad(), unchanged(model), own_randomness(seed, cuda=cuda):
        yield
