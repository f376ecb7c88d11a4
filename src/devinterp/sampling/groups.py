"""Chains that advance together: one in the model itself, or several as one batched computation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import final

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from devinterp.sampling.loss import Loss, masked
from devinterp.sampling.prefix import PrefixCache
from devinterp.sampling.problem import Problem
from devinterp.sampling.rows import Batch, Rows, map_tensors
from devinterp.sampling.weights import InPlaceWeights, MovingWeights, StackedWeights

#: What rows of the sampling dataset are called where activations are kept.
DATASET = "dataset"


def watched_key(observable: str) -> str:
    """Return what rows of an observable are called there."""
    return f"observables/{observable}"


class ChainGroup(ABC):
    """One or several chains under one restriction.

    Parameters
    ----------
    problem : Problem
        The run.
    """

    weights: MovingWeights

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @abstractmethod
    def add_gradient(self, sequence_ids: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Make the gradient of the mean loss of one step's minibatches, to be fetched with ``weights.gradients()``.

        Parameters
        ----------
        sequence_ids : sequence of numpy.ndarray
            For each chain the rows of the step, ``(batch,)``: ``gradient_accumulation_steps`` minibatches after each other.

        Returns
        -------
        losses : Tensor
            ``(chain, batch, *loss_dims)``, NaN where they do not count.
        finite : Tensor
            Whether all losses that count are finite, boolean ``(chain,)``, still on the device.
        """

    @abstractmethod
    def evaluate(self, observable: str) -> tuple[Tensor, Tensor]:
        """Return the losses of an observable now, ``(chain, sequence, *loss_dims)``, and whether they are finite."""


@final
class SingleChain(ChainGroup):
    """One chain, moved inside the model.

    Parameters
    ----------
    problem : Problem
        The run.
    weights : InPlaceWeights
        What moves.
    prefix : PrefixCache, optional
        Of the layers that do not.
    """

    def __init__(self, problem: Problem, weights: InPlaceWeights, prefix: PrefixCache | None = None) -> None:
        super().__init__(problem)
        self.weights, self.prefix = weights, prefix

    def add_gradient(self, sequence_ids: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Add the gradient to the model's parameters; see `ChainGroup.add_gradient`."""
        parts = np.split(sequence_ids[0], self.problem.settings.batches_per_step)
        loss, recorded, finite = self.problem.loss, [], []
        for part in parts:
            batch, attention_mask = self.problem.rows.batch(part)
            with self._after_prefix(DATASET, self.problem.rows, part):
                mean, losses = loss.mean(self.problem.model, batch, attention_mask)
            if mean.requires_grad:  # else the loss does not depend on what moves: its gradient is zero
                (mean / len(parts)).backward()  # type: ignore[no-untyped-call]
            valid = loss.valid(attention_mask)
            recorded.append(masked(losses, valid))
            finite.append(all_finite(losses, valid))
        return torch.cat(recorded)[None], torch.stack(finite).all()[None]

    def evaluate(self, observable: str) -> tuple[Tensor, Tensor]:
        """Return the losses of an observable; see `ChainGroup.evaluate`."""
        watched = self.problem.observables[observable]
        parts = self.problem.batches_of(watched.sequence_id)
        found = [self.losses(watched_key(observable), watched.rows, part) for part in parts]
        return torch.cat([losses for losses, _ in found])[None], torch.stack([sound for _, sound in found]).all()[None]

    @torch.no_grad()
    def losses(self, key: str, rows: Rows, part: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the losses of some rows now, ``(batch, *loss_dims)``, and whether they are finite.

        Parameters
        ----------
        key : str
            What the rows are called where activations are kept.
        rows : Rows
            All of the data.
        part : numpy.ndarray
            Which rows, ``(batch,)``.
        """
        batch, attention_mask = rows.batch(part)
        with self._after_prefix(key, rows, part):
            losses = self.problem.loss.losses(self.problem.model, batch, attention_mask)
        valid = self.problem.loss.valid(attention_mask)
        return masked(losses, valid), all_finite(losses, valid)

    def _after_prefix(self, key: str, rows: Rows, part: np.ndarray) -> AbstractContextManager[None]:
        if self.prefix is None:
            return nullcontext()
        return self.prefix.rows(key, rows.locate(part).numpy(), len(rows.ids))


@final
class VectorizedChains(ChainGroup):
    """Several chains as one computation: the model under vmap, called with the values of each chain.

    Parameters
    ----------
    problem : Problem
        The run. Its model is not moved.
    weights : StackedWeights
        What moves.
    """

    def __init__(self, problem: Problem, weights: StackedWeights) -> None:
        super().__init__(problem)
        self.weights: StackedWeights = weights
        self._module = _LossModule(problem.model, problem.loss.functional())

    def add_gradient(self, sequence_ids: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Make the gradients of all chains in one backward pass; see `ChainGroup.add_gradient`."""
        num = self.problem.settings.batches_per_step
        shared = all(ids is sequence_ids[0] for ids in sequence_ids)
        recorded, finite = [], []
        for n in range(num):
            parts = [np.split(ids, num)[n] for ids in (sequence_ids[:1] if shared else sequence_ids)]
            batch, attention_mask = self.problem.rows.batch(np.concatenate(parts))
            if not shared:
                batch = map_tensors(batch, partial(_per_chain, num=len(parts)))
                attention_mask = None if attention_mask is None else _per_chain(attention_mask, num=len(parts))
            mean, losses = self._run(batch, attention_mask, shared=shared)
            if mean.requires_grad:  # else the loss does not depend on what moves: its gradient is zero
                (mean.sum() / num).backward()  # type: ignore[no-untyped-call]
            losses, sound = self._mark(losses.detach(), attention_mask)
            recorded.append(losses)
            finite.append(sound)
        return torch.cat(recorded, 1), torch.stack(finite).all(0)

    @torch.no_grad()
    def evaluate(self, observable: str) -> tuple[Tensor, Tensor]:
        """Return the losses of an observable for all chains; see `ChainGroup.evaluate`."""
        watched = self.problem.observables[observable]
        recorded, finite = [], []
        for part in self.problem.batches_of(watched.sequence_id):
            batch, attention_mask = watched.rows.batch(part)
            losses, sound = self._mark(self._run(batch, attention_mask, shared=True)[1], attention_mask)
            recorded.append(losses)
            finite.append(sound)
        return torch.cat(recorded, 1), torch.stack(finite).all(0)

    def _run(self, batch: Batch, attention_mask: Tensor | None, *, shared: bool) -> tuple[Tensor, Tensor]:
        """Return the mean loss of each chain, ``(chain,)``, and its losses, ``(chain, batch, *loss_dims)``."""

        def one_chain(values: list[Tensor], batch: Batch, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
            parameters = self.weights.whole_parameters(values)
            named = {f"model.{name}": value for name, value in parameters.items()}
            found: tuple[Tensor, Tensor] = functional_call(self._module, named, (batch, attention_mask))
            return found

        along = None if shared else 0
        mask_along = None if attention_mask is None else along
        run = vmap(one_chain, in_dims=(0, along, mask_along), randomness="error")
        with sdpa_kernel(SDPBackend.MATH):  # torch loops over the chains in its fused kernels of attention
            found: tuple[Tensor, Tensor] = run(self.weights.values, batch, attention_mask)
        return found

    def _mark(self, losses: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        if attention_mask is None:
            return losses, torch.isfinite(losses).flatten(1).all(1)
        valid = self._module.loss.valid(attention_mask.flatten(0, -2))
        assert valid is not None
        valid = valid.view(-1, *losses.shape[1:])
        return masked(losses, valid), torch.isfinite(torch.where(valid, losses, 0)).flatten(1).all(1)


class _LossModule(nn.Module):
    """A model and its loss as one module, so that both see the values that are put in."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        return self.loss.mean(self.model, batch, attention_mask)


def all_finite(losses: Tensor, valid: Tensor | None) -> Tensor:
    """Return whether all losses that count are finite, without asking the device to wait."""
    return torch.isfinite(losses if valid is None else torch.where(valid, losses, 0)).all()


def _per_chain(data: Tensor, *, num: int) -> Tensor:
    """Return a tensor with its first dimension cut into one part for each chain."""
    return data.view(num, -1, *data.shape[1:])
