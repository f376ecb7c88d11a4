"""Chains that advance together: one in the model itself, or several as one batched computation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from devinterp.sampling.engines.weights import SampledWeights
from devinterp.sampling.spec import RunSpec

#: What rows of the sampling dataset are called where activations are kept.
DATASET = "dataset"


def watched_key(observable: str) -> str:
    """Return what rows of an observable are called there."""
    return f"observables/{observable}"


class Engine(ABC):
    """One or several chains under one restriction.

    Parameters
    ----------
    spec : RunSpec
        The run.
    """

    weights: SampledWeights

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec

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


def all_finite(losses: Tensor, valid: Tensor | None) -> Tensor:
    """Return whether all losses that count are finite, without asking the device to wait."""
    return torch.isfinite(losses if valid is None else torch.where(valid, losses, 0)).all()
