"""Stacked rows of a dataset, and the minibatches made of them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from devinterp.sampling.data.columns import Batch, leaves, map_tensors
from devinterp.sampling.data.placement import HostCopies, copied_to, objects_to

INPUT_IDS, ATTENTION_MASK, LABELS = "input_ids", "attention_mask", "labels"
#: Label of a token that no loss is to count.
IGNORED = -100


class Minibatch(NamedTuple):
    """Some rows, as a loss is given them.

    Parameters
    ----------
    data : Batch
        Token ids ``(batch, token)``, or whatever rows are made of, stacked.
    attention_mask : Tensor or None
        For padded token ids: True where there is text, ``(batch, token)``.
    counted : Tensor or None
        Which losses count, ``(batch, *loss_dims)``; None where all do.
    """

    data: Batch
    attention_mask: Tensor | None = None
    counted: Tensor | None = None


@dataclass(frozen=True)
class Rows:
    """Some rows of a dataset, stacked.

    Parameters
    ----------
    data : Batch
        Each tensor with the rows along its first dimension.
    ids : numpy.ndarray
        Which rows of the dataset they are, increasing, ``(row,)``.
    attention_mask : Tensor or None
        For padded token ids: True where there is text, ``(row, token)``; None where there is no padding.
    counted : Tensor or None
        Which losses count, ``(row, *loss_dims)``: not those of padding, nor those whose label is -100. None where all do.
    host : HostCopies or None
        For rows that are too large for the device: they stay on the host, and their minibatches are copied.
    """

    data: Batch
    ids: np.ndarray
    attention_mask: Tensor | None = None
    counted: Tensor | None = None
    host: HostCopies | None = field(default=None, compare=False)

    @property
    def token_ids(self) -> Tensor | None:
        """Return ``(row, token)`` ids, or None for data that hold none."""
        tokens = self.data.get(INPUT_IDS) if isinstance(self.data, dict) else self.data
        return tokens if isinstance(tokens, Tensor) and is_tokens(tokens) else None

    @property
    def nbytes(self) -> int:
        """Return the bytes of all tensors."""
        tensors = [leaf for _, leaf in leaves(self.data) if isinstance(leaf, Tensor)]
        return sum(t.nbytes for t in (*tensors, self.attention_mask, self.counted) if t is not None)

    @property
    def padded_before_text(self) -> Bool[Tensor, " row"] | None:
        """Return in which rows padding stands before text, on the left or inside; None where there is no padding."""
        mask = self.attention_mask
        return None if mask is None else (mask[:, 1:] & (mask.long().cummin(1).values[:, :-1] == 0)).any(1)

    def places(self, ids: np.ndarray) -> np.ndarray:
        """Return where rows of the dataset are in the stacked tensors, ``(row,)``."""
        if len(self.ids) and self.ids[-1] - self.ids[0] == len(self.ids) - 1:  # none is missing between them
            return np.asarray(ids - self.ids[0], dtype=np.int64)
        return np.searchsorted(self.ids, ids)

    def index(self, ids: np.ndarray) -> Tensor:
        """Return `places` as a tensor of the host."""
        return torch.from_numpy(self.places(ids))

    def batch(self, ids: np.ndarray) -> Minibatch:
        """Return rows of the dataset, in the order of `ids`, on the device of the run."""
        if self.host is not None:
            taken: Minibatch = self.host.take(ids, self._selected)
            return taken
        return self._selected(ids)

    def prefetch(self, ids: np.ndarray) -> None:
        """Begin to copy the rows of a minibatch to the device, where they are not there, while it computes something else."""
        if self.host is not None and len(ids):
            self.host.begin(ids, self._selected)

    def _selected(self, ids: np.ndarray) -> Minibatch:
        index = self.index(ids)

        def of(tensor: Tensor) -> Tensor:
            return tensor.index_select(0, copied_to(index, tensor.device))

        data = map_tensors(self.data, of, lambda objects: [objects[int(i)] for i in index])
        return Minibatch(data, *(None if mask is None else of(mask) for mask in (self.attention_mask, self.counted)))

    def subset(self, ids: np.ndarray) -> Rows:
        """Return some of the rows, as if they had been read alone: without a mask where there is no padding among them."""
        data, mask, counted = self._selected(ids)
        return Rows(data, ids, unless_all(mask), unless_all(counted), self.host)

    def to(self, device: torch.device) -> Rows:
        """Return the rows on a device."""
        mask, counted = (None if each is None else each.to(device) for each in (self.attention_mask, self.counted))
        data = map_tensors(self.data, lambda t: t.to(device), lambda objects: objects_to(objects, device))
        return Rows(data, self.ids, mask, counted)

    def placed(self, device: torch.device) -> Rows:
        """Return the rows where a run wants them: on its device, or, where they are large, on the host beside it."""
        copies = HostCopies.for_rows(device, self.nbytes)
        if copies is None:
            return self.to(device)
        return replace(self.to(torch.device("cpu")), host=copies)


def unless_all(mask: Tensor | None) -> Tensor | None:
    """Return a mask, or None where it excludes nothing: models are faster without one."""
    return None if mask is None or bool(mask.all()) else mask.bool()


def is_tokens(data: Tensor) -> bool:
    """Say whether a tensor may be token ids, ``(row, token)``."""
    return data.ndim == 2 and not data.is_floating_point() and not data.is_complex() and data.dtype != torch.bool


def as_rows(data: Any, ids: np.ndarray) -> Rows:
    """Return stacked rows; of those that hold nothing but token ids, the ids.

    Ids and labels become int64: embeddings and losses take no other whole numbers.
    """
    if isinstance(data, dict) and INPUT_IDS in data:
        data = {key: _long(value) if key in (INPUT_IDS, LABELS, "label") else value for key, value in data.items()}
        return Rows(data[INPUT_IDS] if set(data) == {INPUT_IDS} else data, ids)
    return Rows(_long(data) if isinstance(data, Tensor) and is_tokens(data) else data, ids)


def _long(value: Any) -> Any:
    whole = isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex()
    return value.long() if whole and value.dtype != torch.bool else value
