"""Activations of the layers that are constant under a weight restriction, computed once for each row of data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from devinterp.models.masks.mask import Mask
from devinterp.sampling.data.placement import copied_to
from devinterp.sampling.data.rows import Rows
from devinterp.sampling.engines.prefix_layers import Prefix
from devinterp.sampling.losses.unembedding import replaced_forward

#: Bytes of activations that are cached; data sets beyond it are computed anew every time.
BUDGET = 512 * 2**20


@dataclass
class PrefixCache:
    """What the prefix gives for each row of data, filled as rows are met.

    Parameters
    ----------
    prefix : Prefix
        Of the model under the present restriction.
    budget : int
        Bytes to keep at most.
    gave_up : str
        Why nothing can be kept, once that has shown.
    """

    prefix: Prefix
    budget: int = BUDGET
    gave_up: str = ""
    _kept: dict[str, tuple[list[Tensor], np.ndarray] | None] = field(default_factory=dict)

    def holds(self, key: str) -> bool:
        """Return whether rows of a data set are kept; not before any were met, nor where they take too much memory."""
        return self._kept.get(key) is not None

    def can_hold(self, key: str) -> bool:
        """Return whether rows of a data set are kept, or will be when they are met."""
        return not self.gave_up and self._kept.get(key, ()) is not None

    def has(self, key: str, index: np.ndarray) -> bool:
        """Return whether it is kept what the prefix gave for some rows, all of them."""
        kept = self._kept.get(key)
        return kept is not None and not self.gave_up and bool(kept[1][index].all())

    def kept(self, key: str, index: np.ndarray) -> list[Tensor] | None:
        """Return what the prefix gave for some rows, a tensor ``(batch, ...)`` of each kind; None unless all were met."""
        kept = self._kept.get(key)
        if kept is None or not self.has(key, index):
            return None
        return [all_rows.index_select(0, _index(index, all_rows)) for all_rows in kept[0]]

    def forget(self, key: str, index: np.ndarray) -> None:
        """Forget what the prefix gave for some rows: it is computed anew when they are met."""
        kept = self._kept.get(key)
        if kept is not None:
            kept[1][index] = False

    @contextmanager
    def after(self, kept: Sequence[Tensor]) -> Iterator[None]:
        """Let a forward pass inside the block start after the prefix, from what it gave for the batch."""
        output = self.prefix.wrap(kept)
        with ExitStack() as stack:
            for layer in self.prefix.layers:
                stack.enter_context(replaced_forward(layer, lambda *_, **__: output))
            yield

    @contextmanager
    def rows(self, key: str, index: np.ndarray, num_rows: int) -> Iterator[None]:
        """Let a forward pass inside the block start after the prefix, or remember what the prefix gives.

        Parameters
        ----------
        key : str
            Which data set the rows are of.
        index : numpy.ndarray
            Which of them make the batch, ``(batch,)``.
        num_rows : int
            Rows of that data set.
        """
        kept = self.kept(key, index)
        if kept is not None:
            with self.after(kept):
                yield
        elif self.can_hold(key):
            with self._remembering(key, index, num_rows):
                yield
        else:
            yield

    @contextmanager
    def _remembering(self, key: str, index: np.ndarray, num_rows: int) -> Iterator[None]:
        def keep(_: nn.Module, __: Any, output: Any) -> None:
            tensors = self.prefix.kept(output)
            if any(tensor.ndim < 2 or len(tensor) != len(index) for tensor in tensors):
                self.gave_up = "layers do not return a row of activations for each sequence"
                return
            if key not in self._kept:
                self._kept[key] = self._allocate(tensors, num_rows)
            kept = self._kept[key]
            if kept is not None:
                for all_rows, tensor in zip(kept[0], tensors, strict=True):
                    all_rows[_index(index, all_rows)] = tensor.detach()
                kept[1][index] = True

        hook = self.prefix.layers[-1].register_forward_hook(keep)
        try:
            yield
        finally:
            hook.remove()

    def _allocate(self, tensors: Sequence[Tensor], num_rows: int) -> tuple[list[Tensor], np.ndarray] | None:
        used = sum(tensor.nbytes for kept in self._kept.values() if kept is not None for tensor in kept[0])
        if used + sum(num_rows * tensor[0].nbytes for tensor in tensors) > self.budget:
            return None
        return [tensor.new_empty((num_rows, *tensor.shape[1:])) for tensor in tensors], np.zeros(num_rows, bool)


def after_prefix(cache: PrefixCache | None, key: str, rows: Rows, ids: np.ndarray) -> AbstractContextManager[None]:
    """Return the context in which a batch passes through the model: `PrefixCache.rows`, or none without a cache.

    Parameters
    ----------
    cache : PrefixCache or None
        What is kept of the prefix.
    key : str
        Key of the data among cached activations.
    rows : Rows
        All of the data.
    ids : numpy.ndarray
        Which rows make the batch, ``(batch,)``.
    """
    return nullcontext() if cache is None else cache.rows(key, rows.places(ids), len(rows.ids))


def _index(rows: np.ndarray, like: Tensor) -> Tensor:
    return copied_to(torch.from_numpy(rows), like.device)


@dataclass(frozen=True)
class Reuse:
    """How much of a model is computed once under a restriction.

    Parameters
    ----------
    prefix : Prefix or None
        The constant layers; None where nothing is reused.
    note : str
        That in words, or why nothing is.
    masks : mapping of str to Mask
        For which sampled elements that was tried.
    refused : bool
        Whether a trial showed that constant layers may not be reused; where fewer elements are sampled they may.
    """

    prefix: Prefix | None
    note: str
    masks: Mapping[str, Mask]
    refused: bool = False

    def covers(self, masks: Mapping[str, Mask]) -> bool:
        """Return whether all these elements were among those it was tried for."""
        return list(masks) == list(self.masks) and all(
            (mask & self.masks[name]).num_elements == mask.num_elements for name, mask in masks.items()
        )


class SharedPrefix:
    """What restrictions of one run share: which layers are constant, and, one after the other, their activations.

    Holds at most one cache: that of the restriction before.
    """

    def __init__(self) -> None:
        self._cache: PrefixCache | None = None
        self._decided: list[Reuse] = []

    def of(self, prefix: Prefix) -> PrefixCache:
        """Return the cache of a prefix: the one that is held if it is of the same layers, else an empty one."""
        if self._cache is None or self._cache.prefix != prefix:
            self._cache = PrefixCache(prefix)
        return self._cache

    def decided(self, masks: Mapping[str, Mask]) -> Reuse | None:
        """Return what was found to be constant where these elements are sampled, if that has been tried."""
        return next((each for each in self._decided if each.covers(masks)), None)

    def remember(self, reuse: Reuse) -> None:
        """Remember how much may be reused."""
        self._decided.append(reuse)

    def clear(self) -> None:
        """Hold no activations."""
        self._cache = None
