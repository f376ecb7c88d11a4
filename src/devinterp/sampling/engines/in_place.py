"""The engine of one chain, which moves inside the model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import final

import numpy as np
import torch
from torch import Tensor

from devinterp.sampling.data.datasets import Rows
from devinterp.sampling.engines.engine import DATASET, Engine, all_finite, watched_key
from devinterp.sampling.engines.prefix_cache import PrefixCache
from devinterp.sampling.engines.weights import InPlaceWeights
from devinterp.sampling.losses.loss import masked
from devinterp.sampling.spec import RunSpec


@final
class InPlaceEngine(Engine):
    """One chain, moved inside the model.

    Parameters
    ----------
    spec : RunSpec
        The run.
    weights : InPlaceWeights
        What moves.
    prefix : PrefixCache, optional
        Of the layers that do not.
    """

    def __init__(self, spec: RunSpec, weights: InPlaceWeights, prefix: PrefixCache | None = None) -> None:
        super().__init__(spec)
        self.weights, self.prefix = weights, prefix

    def add_gradient(self, sequence_ids: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Add the gradient to the model's parameters; see `Engine.add_gradient`."""
        parts = np.split(sequence_ids[0], self.spec.settings.batches_per_step)
        loss, recorded, finite = self.spec.loss, [], []
        for part in parts:
            batch, attention_mask = self.spec.rows.batch(part)
            with self._after_prefix(DATASET, self.spec.rows, part):
                mean, losses = loss.mean(self.spec.model, batch, attention_mask)
            if mean.requires_grad:  # else the loss does not depend on what moves: its gradient is zero
                (mean / len(parts)).backward()  # type: ignore[no-untyped-call]
            valid = loss.valid(attention_mask)
            recorded.append(masked(losses, valid))
            finite.append(all_finite(losses, valid))
        return torch.cat(recorded)[None], torch.stack(finite).all()[None]

    def evaluate(self, observable: str) -> tuple[Tensor, Tensor]:
        """Return the losses of an observable; see `Engine.evaluate`."""
        watched = self.spec.observables[observable]
        parts = self.spec.batches_of(watched.sequence_id)
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
            losses = self.spec.loss.losses(self.spec.model, batch, attention_mask)
        valid = self.spec.loss.valid(attention_mask)
        return masked(losses, valid), all_finite(losses, valid)

    def _after_prefix(self, key: str, rows: Rows, part: np.ndarray) -> AbstractContextManager[None]:
        if self.prefix is None:
            return nullcontext()
        return self.prefix.rows(key, rows.locate(part).numpy(), len(rows.ids))
