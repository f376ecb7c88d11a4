"""What all chains of a run share: the model, the data, the loss, the kernel and the settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from devinterp.kernels import build_transition
from devinterp.models.masks import ParamMasks
from devinterp.sampling.data.rows import Rows
from devinterp.sampling.data.schedule import Schedule
from devinterp.sampling.losses.loss import Loss, all_finite, masked
from devinterp.sampling.settings import Settings
from devinterp.types import Kernel, Recording, Transition


@final
@dataclass(frozen=True)
class Observable:
    """Sequences whose losses are recorded at every draw.

    Parameters
    ----------
    rows : Rows
        The data, on the model's device unless they are large (`Rows.placed`).
    sequence_id : numpy.ndarray
        Which rows of the observable's dataset, in the order they are evaluated, ``(sequence,)``.
    """

    rows: Rows
    sequence_id: np.ndarray


@final
@dataclass(frozen=True)
class RunRecorder:
    """A recorder of a run, with what it gave at the initial weights.

    Parameters
    ----------
    kind : str
        Name of the `devinterp.types.Recorder`.
    settings : dict of str to object
        Its settings, as far as they are JSON; of others their type.
    recording : Recording
        What records.
    initial : dict of str to numpy.ndarray
        What it gave at the initial weights, by variable.
    other_settings : str
        A hash of the settings that are no JSON.
    rows : tuple of Rows
        All data that it reads.
    """

    kind: str
    settings: Mapping[str, Any]
    recording: Recording
    initial: Mapping[str, np.ndarray]
    other_settings: str = ""
    rows: tuple[Rows, ...] = ()


@final
@dataclass(frozen=True)
class StiffDirections:
    """Directions of weights along which the loss curves most.

    Parameters
    ----------
    curvatures : numpy.ndarray
        The second derivative along each, ``(direction,)``; NaN for those that the restriction has too few weights for.
    vectors : tuple of Tensor
        For each sampled parameter the components of unit vectors, ``(direction, element)``, in the host's memory.
    """

    curvatures: np.ndarray
    vectors: tuple[Tensor, ...]


@final
@dataclass(frozen=True)
class RunSpec:
    """A checked run, ready to be sampled. Nothing in it changes while it is, but for the model's weights.

    Parameters
    ----------
    model : torch.nn.Module
        The model; its weights change while sampling and are put back.
    loss : Loss
        Its per-sample loss.
    loss_dims : tuple of str
        Names of the dims of one sample's loss.
    rows : Rows
        Those rows of the sampling dataset that are used, on the model's device unless they are large.
    num_rows : int
        Rows of the whole sampling dataset.
    observables : dict of str to Observable
        By name.
    restrictions : dict of str to ParamMasks
        The sampled parameters of each weight restriction, by name.
    kernel : Kernel
        The sampling algorithm.
    settings : Settings
        All numbers and switches.
    choices : dict of str to str
        Which way of computing was chosen for what, and why, as far as that is decided before a chain starts.
    virial : bool
        Whether the virial is measured at draws; not in a store that was made without.
    num_directions : int
        Along how many of the stiffest directions the virial is measured, too.
    directions : dict of str to StiffDirections
        These directions, by restriction, once they are known.
    unlike_eval : str
        What makes the model, in train mode, compute something else than in eval mode, such as active dropout; empty where
        nothing does.
    compile_backend : str
        Backend of ``torch.compile`` with which layers are compiled; empty: they are not.
    recorders : dict of str to RunRecorder
        What else is stored of the model at draws, by name.
    """

    model: nn.Module
    loss: Loss
    loss_dims: tuple[str, ...]
    rows: Rows
    num_rows: int
    observables: Mapping[str, Observable]
    restrictions: Mapping[str, ParamMasks]
    kernel: Kernel
    settings: Settings
    choices: Mapping[str, str] = field(default_factory=dict)
    virial: bool = True
    num_directions: int = 0
    directions: Mapping[str, StiffDirections] = field(default_factory=dict)
    unlike_eval: str = ""
    compile_backend: str = ""
    recorders: Mapping[str, RunRecorder] = field(default_factory=dict)

    @cached_property
    def schedule(self) -> Schedule:
        """Return which rows each chain uses at which step."""
        return Schedule(self.settings, self.num_rows)

    @property
    def parameter_names(self) -> list[str]:
        """Return the names of all parameter tensors that some restriction samples, in the order of the restrictions."""
        return list(dict.fromkeys(name for masks in self.restrictions.values() for name in masks))

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

    def batches_in_turn(self, sequence_ids: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield each of these batches with the one after it, which may be fetched meanwhile; the last with no rows."""
        batches = self.batches_of(sequence_ids)
        return zip(batches, [*batches[1:], sequence_ids[:0]], strict=True)

    @torch.no_grad()
    def evaluate(
        self,
        rows: Rows,
        sequence_ids: np.ndarray,
        around: Callable[[np.ndarray], AbstractContextManager[None]] = lambda _: nullcontext(),
    ) -> tuple[Tensor, bool]:
        """Return the losses of rows at the model's present weights, and whether a store can hold all unmasked ones.

        Parameters
        ----------
        rows : Rows
            The data.
        sequence_ids : numpy.ndarray
            Which of them, in the order in which they are cut into batches, ``(sequence,)``.
        around : callable, optional
            Returns for the rows of a batch the context in which it passes through the model.

        Returns
        -------
        losses : Tensor
            ``(sequence, *loss_dims)``, NaN where masked.
        finite : bool
            Reading it synchronises with the device.
        """
        parts, finite = [], True
        for ids, following in self.batches_in_turn(sequence_ids):
            batch, attention_mask, counted = rows.batch(ids)
            with around(ids):
                losses = self.loss.losses(self.model, batch, attention_mask)
            rows.prefetch(following)
            parts.append(masked(losses, counted))
            finite &= bool(all_finite(losses, counted, self.settings.largest_loss))
        return torch.cat(parts), finite
