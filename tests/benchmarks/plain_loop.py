"""The loop that the sampling benchmarks are measured against: what a straightforward implementation does.

Logits of the whole batch, a scan for non-finite logits, a full log-softmax, one update after the other for each
parameter, observables the same way at every draw, and a row of a Zarr array for each draw. One chain after the other.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import zarr
from torch import Tensor, nn

LossFunction = Callable[[nn.Module, Tensor], Tensor]


def logits_of(model: nn.Module, ids: Tensor) -> Tensor:
    """Return the logits of a HuggingFace model or a plain module."""
    output = model(ids)
    return output if isinstance(output, Tensor) else output.logits


def token_losses(model: nn.Module, ids: Tensor) -> Tensor:
    """Return next-token losses ``(batch, position)``."""
    logits = logits_of(model, ids)
    if not torch.isfinite(logits).all():
        raise FloatingPointError("logits are not finite")
    return -torch.log_softmax(logits[:, :-1], -1).gather(-1, ids[:, 1:, None])[..., 0]


def sample(
    model: nn.Module,
    batches: list[Tensor],
    observables: Mapping[str, list[Tensor]],
    path: Path,
    *,
    lr: float,
    n_beta: float,
    localization: float,
    num_chains: int,
    num_draws: int,
    masks: Mapping[str, Tensor] | None = None,
    loss: Callable[[nn.Module, Tensor], Tensor] = token_losses,
) -> None:
    """Sample by SGLD and write every loss; the arguments are those of the real thing."""
    root = zarr.open_group(path, mode="w")
    arrays: dict[str, zarr.Array] = {}

    def write(name: str, chain: int, draw: int, losses: Tensor) -> None:
        values = losses.detach().float().cpu().numpy()
        if name not in arrays:
            shape = (num_chains, num_draws, *values.shape)
            arrays[name] = root.create_array(name, shape=shape, chunks=(1, 1, *values.shape), dtype="float32")
        arrays[name][chain, draw] = values

    for chain in range(num_chains):
        moved = copy.deepcopy(model)
        generator = torch.Generator(next(moved.parameters()).device).manual_seed(chain)
        parameters = [(name, p) for name, p in moved.named_parameters() if masks is None or name in masks]
        origin = [p.detach().clone() for _, p in parameters]
        for draw, batch in zip(range(num_draws), itertools.cycle(batches), strict=False):
            moved.zero_grad()
            losses = loss(moved, batch)
            losses.mean().backward()
            with torch.no_grad():
                for (name, p), start in zip(parameters, origin, strict=True):
                    drift = n_beta * p.grad + localization * (p - start)
                    noise = torch.randn(p.shape, generator=generator, device=p.device, dtype=p.dtype)
                    step = -lr / 2 * drift + math.sqrt(lr) * noise
                    p.add_(step if masks is None else step * masks[name])
            write("loss", chain, draw, losses)
            with torch.no_grad():
                for name, parts in observables.items():
                    write(name, chain, draw, torch.cat([loss(moved, part) for part in parts]))
