"""The sizes of a run and its data that are known before the first step: what decides the arrays of its store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from devinterp.schema import POSITION


@dataclass(frozen=True)
class ObservableLayout:
    """The data of one observable that do not change: loss at the starting weights, and which sequences it holds.

    Parameters
    ----------
    init_loss : numpy.ndarray
        Loss at the starting weights, ``(sequence, *loss_dims)``.
    sequence_id : numpy.ndarray
        Row of the observable's dataset for each sequence, ``(sequence,)``.
    token_ids : numpy.ndarray or None
        ``(sequence, token)``, or None for data that are not token ids.
    """

    init_loss: np.ndarray
    sequence_id: np.ndarray
    token_ids: np.ndarray | None = None


@dataclass(frozen=True)
class RowLayout:
    """Losses at w0 of the rows of the sampling dataset that a run's steps use.

    Parameters
    ----------
    row_id : numpy.ndarray
        Rows of the dataset, ``(row,)``: increasing, but for rows that came with more draws, which follow after the others.
    loss : numpy.ndarray
        ``(row, *loss_dims)``, or the mean over each row's unmasked losses, ``(row,)``, where a run stores no more.
    count : numpy.ndarray or None
        Number of unmasked losses of each row, ``(row,)``, where `loss` holds means.
    num_rows : int or None
        Rows of the whole dataset: a mean over all of them has no noise.
    """

    row_id: np.ndarray
    loss: np.ndarray
    count: np.ndarray | None = None
    num_rows: int | None = None


@dataclass(frozen=True)
class VirialLayout:
    """The parameter tensors of a run, whose part in the virial is recorded at draws.

    Parameters
    ----------
    sizes : dict of str to numpy.ndarray
        By name of the tensor, how many of its weights each restriction samples, ``(restriction,)``.
    in_box : bool
        Whether weights are kept in a bounding box.
    curvatures : numpy.ndarray or None
        Second derivatives along the directions whose virial is recorded, too, ``(restriction, direction)``.
    """

    sizes: Mapping[str, np.ndarray]
    in_box: bool = False
    curvatures: np.ndarray | None = None


@dataclass(frozen=True)
class RecordingLayout:
    """What a recorder stores.

    Parameters
    ----------
    initial : dict of str to numpy.ndarray
        By variable, what it gave at the initial weights, in the shape and dtype of every draw: float32, float64 or int64.
    dims : dict of str to tuple of str
        Dims of each variable, beside restriction, chain and draw.
    coords : dict of str to (tuple of str, numpy.ndarray)
        Labels along these dims and other data that do not change, with their dims.
    attrs : dict of str to dict
        Attributes of variables.
    settings : dict
        Attributes of the group: the recorder and its settings.
    """

    initial: Mapping[str, np.ndarray]
    dims: Mapping[str, tuple[str, ...]]
    coords: Mapping[str, tuple[tuple[str, ...], np.ndarray]] = field(default_factory=dict)
    attrs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunLayout:
    """The sizes and data of a run that are known before its first step.

    Parameters
    ----------
    restrictions : dict of str to int
        Number of sampled weights under each restriction, by its name.
    num_chains : int
        Chains of each restriction.
    num_steps : int
        Steps of each chain, burn-in included.
    draw_steps : numpy.ndarray
        The step at which each draw is taken, ``(draw,)``.
    sequence_id : numpy.ndarray
        Dataset rows of the minibatches, ``(chain, step, batch)``.
    init_loss, init_loss_se : numpy.ndarray
        Loss where the chains start and its standard error, ``(chain, *loss_dims)``, or ``(restriction, chain, *loss_dims)``
        where every restriction starts from other weights (``init_noise``).
    init_loss_mean : numpy.ndarray
        Mean over all unmasked losses, which differs from the mean of `init_loss` over positions where sequences are padded;
        the leading dims of `init_loss`.
    init_loss_mean_se : numpy.ndarray
        Standard error of the mean of `init_loss` over its `loss_dims`; the leading dims of `init_loss`.
    observables : dict of str to ObservableLayout
        By name.
    metrics : tuple of str
        Names of the per-step metrics.
    loss_dims : tuple of str
        Dims of a sample's loss: ``("position",)`` for language models, ``()`` for one loss per sample.
    record : {"token", "sequence", "moments"}
        Which part of the losses is stored: all, their mean over each sequence, or running moments over draws.
    loss_dtype : {"float32", "float16"}
        Dtype of the losses along chains.
    rows : RowLayout or None
        Losses at w0 of every row that steps use, where they are stored.
    w0_loss : dict of str to numpy.ndarray
        With ``init_noise``: the loss at w0 itself and its errors, by the name of their variable, dims as of `init_loss`
        without the restriction.
    virial : VirialLayout or None
        What is recorded of the virial at draws, if it is.
    recordings : dict of str to RecordingLayout
        What recorders store, by name.
    """

    restrictions: Mapping[str, int]
    num_chains: int
    num_steps: int
    draw_steps: np.ndarray
    sequence_id: np.ndarray
    init_loss: np.ndarray
    init_loss_se: np.ndarray
    init_loss_mean: np.ndarray
    init_loss_mean_se: np.ndarray
    observables: Mapping[str, ObservableLayout] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    loss_dims: tuple[str, ...] = (POSITION,)
    record: str = "token"
    loss_dtype: str = "float32"
    rows: RowLayout | None = None
    w0_loss: Mapping[str, np.ndarray] = field(default_factory=dict)
    virial: VirialLayout | None = None
    recordings: Mapping[str, RecordingLayout] = field(default_factory=dict)

    @property
    def loss_shape(self) -> tuple[int, ...]:
        """Return the shape of one sample's loss."""
        return self.init_loss.shape[self.init_loss.ndim - len(self.loss_dims) :]
