"""Which batches of observables are evaluated in one forward pass of chains side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from devinterp.sampling.data.rows import Minibatch, Rows
from devinterp.sampling.engines.engine import observable_key
from devinterp.sampling.losses.loss import NextTokenLoss
from devinterp.sampling.spec import RunSpec

#: Minibatches of rows that are evaluated together: without a backward pass they take less memory than a step.
_TOGETHER = 4


@final
@dataclass(frozen=True)
class Piece:
    """Some rows of some data, with the key under which their activations are kept.

    Parameters
    ----------
    key : str
        Key of the data among cached activations.
    rows : Rows
        All of the data.
    ids : numpy.ndarray
        Which rows, ``(batch,)``.
    """

    key: str
    rows: Rows
    ids: np.ndarray

    def is_like(self, other: Piece) -> bool:
        """Return whether rows of both can make one batch."""
        ours, theirs = self.rows.data, other.rows.data
        if not (isinstance(ours, Tensor) and isinstance(theirs, Tensor)):
            return False
        masked_alike = all(
            (one is None) == (another is None)
            for one, another in (
                (self.rows.attention_mask, other.rows.attention_mask),
                (self.rows.counted, other.rows.counted),
            )
        )
        return ours.shape[1:] == theirs.shape[1:] and ours.dtype == theirs.dtype and masked_alike


def pieces_of(spec: RunSpec, names: Sequence[str]) -> Iterator[list[tuple[str, Piece]]]:
    """Yield the batches of some observables, those together that make one forward pass, each with its observable.

    A loss function of the user's own is given batches of the size that was asked for.

    Parameters
    ----------
    spec : RunSpec
        The run.
    names : sequence of str
        Observables.
    """
    most = spec.settings.batch_size * (_TOGETHER if isinstance(spec.loss, NextTokenLoss) else 1)
    together: list[tuple[str, Piece]] = []
    for name in names:
        data = spec.observables[name]
        for part in spec.batches_of(data.sequence_id):
            piece = Piece(observable_key(name), data.rows, part)
            num = sum(len(each.ids) for _, each in together) + len(part)
            if together and (num > most or not together[0][1].is_like(piece)):
                yield together
                together = []
            together.append((name, piece))
    if together:
        yield together


def joined_minibatch(parts: Sequence[Minibatch]) -> Minibatch:
    """Return batches of pieces that are alike as one, their rows behind each other."""
    if len(parts) == 1:
        return parts[0]
    columns = ([each for each in column if isinstance(each, Tensor)] for column in zip(*parts, strict=True))
    data, attention_mask, counted = (torch.cat(tensors) if tensors else None for tensors in columns)
    assert data is not None, "data that are no tensors are never alike"
    return Minibatch(data, attention_mask, counted)
