"""The engine of one chain, whose weights are the model's own parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from devinterp.sampling.data.rows import Rows
from devinterp.sampling.engines.engine import DATASET, Engine, observable_key
from devinterp.sampling.engines.prefix_cache import PrefixCache, after_prefix
from devinterp.sampling.engines.weights import InPlaceWeights
from devinterp.sampling.losses.loss import all_finite, masked
from devinterp.sampling.spec import RunSpec


@final
class InPlaceEngine(Engine):
    """One chain, sampled inside the model.

    Parameters
    ----------
    spec : RunSpec
        The run.
    weights : InPlaceWeights
        The sampled parameters.
    prefix : PrefixCache, optional
        Activations of the layers before them.
    """

    def __init__(self, spec: RunSpec, weights: InPlaceWeights, prefix: PrefixCache | None = None) -> None:
        super().__init__(spec)
        self.weights, self.prefix = weights, prefix

    def add_gradient(self, sequence_ids: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Add the gradient to the model's parameters; see `Engine.add_gradient`."""
        minibatches = self._minibatches(sequence_ids)
        loss, all_losses, finite = self.spec.loss, [], []
        for n, (part,) in enumerate(minibatches):
            batch, attention_mask, counted = self.spec.rows.batch(part)
            with after_prefix(self.prefix, DATASET, self.spec.rows, part):
                mean, losses = loss.mean(self.spec.model, batch, attention_mask, counted)
            if mean.requires_grad:  # else the loss does not depend on a sampled parameter: its gradient is zero
                (mean / len(minibatches)).backward()  # type: ignore[no-untyped-call]
            if n + 1 < len(minibatches):
                self._fetch_ahead(minibatches[n + 1])
            all_losses.append(masked(losses, counted))
            finite.append(all_finite(losses, counted, self.spec.settings.largest_loss))
        return torch.cat(all_losses)[None], torch.stack(finite).all()[None]

    def evaluate(self, observable: str) -> tuple[Tensor, Tensor]:
        """Return the losses of an observable; see `Engine.evaluate`."""
        key, data = observable_key(observable), self.spec.observables[observable]
        parts = []
        for ids, following in self.spec.batches_in_turn(data.sequence_id):
            parts.append(self.losses(key, data.rows, ids))
            data.rows.prefetch(following)
        losses, finite = zip(*parts, strict=True)
        return torch.cat(losses)[None], torch.stack(finite).all()[None]

    @torch.no_grad()
    def losses(self, key: str, rows: Rows, part: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the losses of some rows now, ``(batch, *loss_dims)``, and whether they are finite.

        Parameters
        ----------
        key : str
            Key of the data among cached activations.
        rows : Rows
            All of the data.
        part : numpy.ndarray
            Which rows, ``(batch,)``.
        """
        batch, attention_mask, counted = rows.batch(part)
        with after_prefix(self.prefix, key, rows, part):
            losses = self.spec.loss.losses(self.spec.model, batch, attention_mask)
        return masked(losses, counted), all_finite(losses, counted, self.spec.settings.largest_loss)
