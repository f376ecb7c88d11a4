"""The caller's model comes back unchanged, whatever happens while it is sampled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from devinterp.models.kept_attributes import attributes_kept

#: Weights of models up to this size are copied once for each run, so that what a forward pass writes into them is undone.
_KEPT_BYTES = 256 * 2**20


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Put back, whatever happens, the buffers, attributes, gradients and ``requires_grad`` flags of a model.

    Inside, all flags are off, and embeddings make dense gradients.
    """
    saved = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    # A forward pass may write into buffers (batch-norm statistics of a model in train mode) or put others in their place
    # (rotary tables that grow); they are small.
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    for parameter, _, _ in saved:
        parameter.requires_grad_(False)
        parameter.grad = None
    try:
        with attributes_kept(model):
            for module in model.modules():
                if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.sparse:
                    module.sparse = False
            yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                if 0 not in buffer.stride():  # nothing can be written into an expanded one
                    buffer.copy_(before)
        for parameter, requires_grad, gradient in saved:
            parameter.requires_grad_(requires_grad)
            parameter.grad = gradient


@contextmanager
def _weights_kept(model: nn.Module) -> Iterator[None]:
    """Put back what forward passes write into weights and into tensors that are attributes, as embeddings with a norm do."""
    parameters: list[Tensor] = list(model.parameters())
    if sum(p.nbytes for p in parameters) > _KEPT_BYTES:
        bounded = [
            m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag) and m.max_norm is not None
        ]
        parameters = [m.weight for m in bounded]
    attributes = [v for m in model.modules() for v in vars(m).values() if isinstance(v, Tensor)]
    attributes = [tensor for tensor in attributes if tensor.nbytes <= _KEPT_BYTES and not tensor.is_meta]
    kept = [(tensor, tensor.detach().clone()) for tensor in (*parameters, *attributes)]
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, before in kept:
                if tensor.shape == before.shape and 0 not in tensor.stride():
                    tensor.detach().copy_(before)


@contextmanager
def _differentiable_recurrence(model: nn.Module) -> Iterator[None]:
    """Switch cuDNN off for recurrent modules in eval mode on a GPU, which it cannot differentiate."""
    recurrent = [m for m in model.modules() if isinstance(m, nn.RNNBase) and not m.training]
    before = torch.backends.cudnn.enabled
    if recurrent:
        torch.backends.cudnn.enabled = False
    try:
        yield
    finally:
        torch.backends.cudnn.enabled = before


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
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        _differentiable_recurrence(model) if cuda else nullcontext(),
        _weights_kept(model),
        unchanged(model),
        own_randomness(seed, cuda=cuda),
    ):
        yield
