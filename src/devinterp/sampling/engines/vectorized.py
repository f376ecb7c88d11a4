"""The engine of several chains as one computation: the model under vmap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from devinterp.sampling.data.columns import map_tensors
from devinterp.sampling.data.rows import Minibatch
from devinterp.sampling.engines.engine import Engine
from devinterp.sampling.engines.weights import StackedWeights
from devinterp.sampling.losses.loss import Loss, masked
from devinterp.sampling.spec import RunSpec


@final
class VectorizedEngine(Engine):
    """Several chains as one computation: the model under vmap, called with the weights of each chain.

    Parameters
    ----------
    spec : RunSpec
        The run. Its model's own weights are left as they are.
    weights : StackedWeights
        The sampled parameters of all chains.
    """

    def __init__(self, spec: RunSpec, weights: StackedWeights) -> None:
        super().__init__(spec)
        self.weights: StackedWeights = weights
        self._module = _LossModule(spec.model, spec.loss.functional())

    def add_gradient(self, sequence_ids: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Make the gradients of all chains in one backward pass; see `Engine.add_gradient`."""
        shared = all(ids is sequence_ids[0] for ids in sequence_ids)
        parts = self._minibatches(sequence_ids)
        all_losses, finite = [], []
        for n, part in enumerate(parts):
            batch = self.spec.rows.batch(part)
            if not shared:
                batch = _per_chain(batch, num=len(sequence_ids))
            mean, losses = self._run(batch, shared=shared)
            if mean.requires_grad:  # else the loss does not depend on a sampled parameter: its gradient is zero
                (mean.sum() / len(parts)).backward()  # type: ignore[no-untyped-call]
            if n + 1 < len(parts):
                self.spec.rows.prefetch(parts[n + 1])
            losses, are_finite = _mark(losses.detach(), batch.counted)
            all_losses.append(losses)
            finite.append(are_finite)
        return torch.cat(all_losses, 1), torch.stack(finite).all(0)

    @torch.no_grad()
    def evaluate(self, observable: str) -> tuple[Tensor, Tensor]:
        """Return the losses of an observable for all chains; see `Engine.evaluate`."""
        data = self.spec.observables[observable]
        all_losses, finite = [], []
        for part, following in self.spec.batches_in_turn(data.sequence_id):
            batch = data.rows.batch(part)
            losses, are_finite = _mark(self._run(batch, shared=True)[1], batch.counted)
            data.rows.prefetch(following)
            all_losses.append(losses)
            finite.append(are_finite)
        return torch.cat(all_losses, 1), torch.stack(finite).all(0)

    def _run(self, batch: Minibatch, *, shared: bool) -> tuple[Tensor, Tensor]:
        """Return the mean loss of each chain, ``(chain,)``, and its losses, ``(chain, batch, *loss_dims)``."""

        def one_chain(values: list[Tensor], batch: Minibatch) -> tuple[Tensor, Tensor]:
            parameters = self.weights.whole_parameters(values)
            named = {f"model.{name}": value for name, value in parameters.items()}
            mean_and_losses: tuple[Tensor, Tensor] = functional_call(self._module, named, (batch,))
            return mean_and_losses

        along: Any = None if shared else Minibatch(*(None if part is None else 0 for part in batch))  # type: ignore[arg-type]
        run = vmap(one_chain, in_dims=(0, along), randomness="error")
        with sdpa_kernel(SDPBackend.MATH):  # torch loops over the chains in its fused kernels of attention
            mean_and_losses: tuple[Tensor, Tensor] = run(self.weights.values, batch)
        return mean_and_losses


class _LossModule(nn.Module):
    """A model and its loss as one module, so that both see the values that are put in."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Minibatch) -> tuple[Tensor, Tensor]:
        return self.loss.mean(self.model, *batch)


def _per_chain(batch: Minibatch, *, num: int) -> Minibatch:
    """Return a minibatch with the first dimension of its tensors cut into one part for each chain."""

    def refuse(_: list[Any]) -> None:
        raise TypeError("minibatches of their own with parts that are no tensors cannot be stacked")

    data = map_tensors(batch.data, lambda tensor: tensor.view(num, -1, *tensor.shape[1:]), refuse)
    masks = (None if mask is None else mask.view(num, -1, *mask.shape[1:]) for mask in batch[1:])
    return Minibatch(data, *masks)


def _mark(losses: Tensor, counted: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the losses, NaN where masked, and whether those of each chain that count are finite."""
    if counted is None:
        return losses, torch.isfinite(losses).flatten(1).all(1)
    counted = counted.view(-1, *losses.shape[1:])  # one for all chains, or for each its own
    return masked(losses, counted), torch.isfinite(torch.where(counted, losses, 0)).flatten(1).all(1)
