"""What all chains of a run share: the model, the data, the loss, the kernel and the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from devinterp.kernels import build_transition
from devinterp.models.masks.param_masks import ParamMasks
from devinterp.sampling.data.datasets import Rows
from devinterp.sampling.engines.prefix_cache import PrefixCache
from devinterp.sampling.losses.loss import Loss, masked
from devinterp.sampling.settings import Settings
from devinterp.types import Kernel, Transition


@dataclass(frozen=True)
class Observable:
    """Sequences whose losses are recorded at every draw.

    Parameters
    ----------
    rows : Rows
        The data, on the model's device.
    sequence_id : numpy.ndarray
        Which rows of the observable's dataset, in the order they are evaluated, ``(sequence,)``.
    """

    rows: Rows
    sequence_id: np.ndarray


@dataclass(frozen=True)
class RunSpec:
    """A prepared run.

    Parameters
    ----------
    model : torch.nn.Module
        The model, moved in place while sampling.
    loss : Loss
        Its per-sample loss.
    rows : Rows
        Those rows of the sampling dataset that are used, on the model's device.
    num_rows : int
        Rows of the whole sampling dataset.
    observables : dict of str to Observable
        By name.
    restrictions : dict of str to ParamMasks
        What moves, by name.
    kernel : Kernel
        The sampling algorithm.
    settings : Settings
        Everything else.
    paths : dict of str to str
        Which way of computing was chosen for what, and why: recorded with the run. Filled as choices are made.
    """

    model: nn.Module
    loss: Loss
    rows: Rows
    num_rows: int
    observables: Mapping[str, Observable]
    restrictions: Mapping[str, ParamMasks]
    kernel: Kernel
    settings: Settings
    paths: dict[str, str] = field(default_factory=dict)
    #: At most one: restrictions after each other with the same constant layers share what these give.
    kept: list[PrefixCache] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        """Return where the model is."""
        return next(self.model.parameters()).device

    def transition(self) -> Transition:
        """Return the kernel with this run's settings."""
        settings = self.settings
        return build_transition(self.kernel, settings.target, lr=settings.lr, **settings.sampling_method_kwargs)

    def batches_of(self, sequence_ids: np.ndarray) -> list[np.ndarray]:
        """Return rows cut into batches for evaluation."""
        size = self.settings.batch_size
        return np.split(sequence_ids, range(size, len(sequence_ids), size))

    @torch.no_grad()
    def evaluate(self, rows: Rows, sequence_ids: np.ndarray) -> tuple[Tensor, bool]:
        """Return the losses of rows at the model's present weights, and whether all that count are finite.

        Returns
        -------
        losses : Tensor
            ``(sequence, *loss_dims)``, NaN where they do not count.
        finite : bool
            Asks the device to wait.
        """
        recorded, finite = [], True
        for part in self.batches_of(sequence_ids):
            batch, attention_mask = rows.batch(part)
            losses = self.loss.losses(self.model, batch, attention_mask)
            valid = self.loss.valid(attention_mask)
            recorded.append(masked(losses, valid))
            finite &= bool(torch.isfinite(losses if valid is None else torch.where(valid, losses, 0)).all())
        return torch.cat(recorded), finite
