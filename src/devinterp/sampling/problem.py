"""What all chains of a run share: the model, the data, the loss, the kernel and the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from devinterp.models.masks import ParamMasks
from devinterp.sampling.loss import Loss, masked
from devinterp.sampling.rows import Rows
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
class Problem:
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
        Which way of computing was chosen for what, and why: recorded with the run.
    """

    model: nn.Module
    loss: Loss
    rows: Rows
    num_rows: int
    observables: Mapping[str, Observable]
    restrictions: Mapping[str, ParamMasks]
    kernel: Kernel
    settings: Settings
    paths: Mapping[str, str] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Return where the model is."""
        return next(self.model.parameters()).device

    def transition(self) -> Transition:
        """Return the kernel with this run's settings."""
        settings = self.settings
        return self.kernel.build(settings.target, lr=settings.lr, **settings.sampling_method_kwargs)

    def add_gradient(self, sequence_ids: np.ndarray) -> tuple[Tensor, Tensor]:
        """Add the gradient of the mean loss of one step's minibatches to the model's parameters.

        Parameters
        ----------
        sequence_ids : numpy.ndarray
            Rows of the step, ``(batch,)``: ``gradient_accumulation_steps`` minibatches one after the other.

        Returns
        -------
        losses : Tensor
            ``(batch, *loss_dims)``, NaN where they do not count.
        finite : Tensor
            Whether all losses that count are finite, a boolean without dims, still on the device.
        """
        parts = np.split(sequence_ids, self.settings.batches_per_step)
        recorded, finite = [], []
        for part in parts:
            batch, attention_mask = self.rows.batch(part)
            mean, losses = self.loss.mean(self.model, batch, attention_mask)
            (mean / len(parts)).backward()  # type: ignore[no-untyped-call]
            valid = self.loss.valid(attention_mask)
            recorded.append(masked(losses, valid))
            finite.append(all_finite(losses, valid))
        return torch.cat(recorded), torch.stack(finite).all()

    @torch.no_grad()
    def evaluate(self, rows: Rows, sequence_ids: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the losses of rows at the model's present weights, and whether all that count are finite.

        Returns
        -------
        losses : Tensor
            ``(sequence, *loss_dims)``, NaN where they do not count.
        finite : Tensor
            A boolean without dims.
        """
        recorded, finite = [], []
        for part in np.split(
            sequence_ids, range(self.settings.batch_size, len(sequence_ids), self.settings.batch_size)
        ):
            batch, attention_mask = rows.batch(part)
            losses = self.loss.losses(self.model, batch, attention_mask)
            valid = self.loss.valid(attention_mask)
            recorded.append(masked(losses, valid))
            finite.append(all_finite(losses, valid))
        return torch.cat(recorded), torch.stack(finite).all()


def all_finite(losses: Tensor, valid: Tensor | None) -> Tensor:
    """Return whether all losses that count are finite, without asking the device to wait."""
    return torch.isfinite(losses if valid is None else torch.where(valid, losses, 0)).all()
