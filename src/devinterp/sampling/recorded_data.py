"""Data that a recorder evaluates the model on: rows as the run reads them, their losses and logits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from devinterp import plugins
from devinterp.errors import InvalidInputError
from devinterp.models.forward import device_of
from devinterp.sampling.data.datasets import row_source
from devinterp.sampling.data.rows import INPUT_IDS, Rows
from devinterp.sampling.data.source import RowSource
from devinterp.sampling.data.tokens import as_tokens, check_tokens, counting
from devinterp.sampling.engines.position_check import choose_positions
from devinterp.sampling.losses.loss import CustomLoss, Loss, NextTokenLoss, masked
from devinterp.sampling.spec import RunSpec
from devinterp.types import ModelAdapter


@final
@dataclass
class Data:
    """Rows of a data set with the run's loss; a `devinterp.types.RecordedData`.

    Parameters
    ----------
    rows : Rows
        The rows, on the host.
    loss : Loss
        The run's loss.
    batch_size : int
        Rows that are evaluated at once.
    adapter : ModelAdapter or None
        How logits are computed; None where no adapter is for the model.
    name : str
        Of the recorder, for messages.
    """

    rows: Rows
    loss: Loss
    batch_size: int
    adapter: ModelAdapter | None
    name: str
    _placed: Rows | None = field(default=None, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_placed": None}  # another process may have another device

    @property
    def num_rows(self) -> int:
        """Return the number of rows."""
        return len(self.rows.ids)

    def token_ids(self) -> Tensor:
        """Return the token ids, ``(sequence, token)``, on the host; raise `InvalidInputError` for data that hold none."""
        tokens = self.rows.token_ids
        if tokens is None:
            raise InvalidInputError(f"recorder {self.name!r} needs token ids, `input_ids`, and its data have none.")
        return tokens

    def attention_mask(self) -> Tensor | None:
        """Return True where there is text, ``(sequence, token)``, on the host; None where nothing is padded."""
        if self.rows.attention_mask is None and isinstance(self.rows.data, dict) and INPUT_IDS in self.rows.data:
            return as_tokens(self.rows, name=f"the data of recorder {self.name!r}").attention_mask
        return self.rows.attention_mask

    @torch.no_grad()
    def losses(self, model: nn.Module) -> Iterator[Tensor]:
        """Yield the losses of each batch, ``(batch, *loss_dims)``: NaN where masked, and infinite where no number."""
        rows = self._on(model)
        for ids in self._batches():
            batch, attention_mask, counted = rows.batch(ids)
            losses = self.loss.losses(model, batch, attention_mask)
            # What is no number must not be taken for what is masked.
            yield masked(torch.where(losses.isnan(), torch.inf, losses), counted)

    @torch.no_grad()
    def logits(self, model: nn.Module) -> Iterator[Tensor]:
        """Yield next-token logits of each batch, ``(batch, token, vocabulary)``."""
        if self.adapter is None:
            raise InvalidInputError(
                f"recorder {self.name!r} needs logits, and no model adapter is for {type(model).__name__}."
            )
        tokens, mask, device = self.token_ids(), self.attention_mask(), device_of(model)
        counts_text = isinstance(self.loss, NextTokenLoss) and self.loss.counts_text
        of = NextTokenLoss(self.adapter, counts_text=counts_text)
        for first in range(0, self.num_rows, self.batch_size):
            part = slice(first, first + self.batch_size)
            yield of.logits(model, tokens[part].to(device), None if mask is None else mask[part].to(device))

    def _batches(self) -> list[np.ndarray]:
        return np.split(self.rows.ids, range(self.batch_size, self.num_rows, self.batch_size))

    def _on(self, model: nn.Module) -> Rows:
        """Return the rows where the model is, or beside it where they are large."""
        device = device_of(model)
        placed = self._placed
        if placed is None or (placed.host is None and device_of_rows(placed) not in (None, device)):
            placed = self._placed = self.rows.placed(device)
        return placed


def device_of_rows(rows: Rows) -> torch.device | None:
    """Return where the tensors of rows are; None where it does not show."""
    return rows.data.device if isinstance(rows.data, Tensor) else None


def read_data(
    spec: RunSpec, dataset: Any, num_rows: int | None, adapter: str | ModelAdapter | None, *, name: str
) -> Data:
    """Return rows of a data set with the run's loss.

    Parameters
    ----------
    spec : RunSpec
        The run; its model must be at the initial weights.
    dataset : object
        A `RowSource`, or whatever `devinterp.slt.sampling.sample` takes as ``dataset``.
    num_rows : int or None
        How many of its first rows; None: all.
    adapter : str or ModelAdapter or None
        The model adapter that the user chose.
    name : str
        Of the recorder, for messages.

    Raises
    ------
    InvalidInputError
        If there are not so many rows, or the loss cannot be computed on them.
    """
    label = f"the data of recorder {name!r}"
    source = dataset if isinstance(dataset, RowSource) else row_source(dataset, name=label)
    if num_rows is not None and not 0 < num_rows <= source.num_rows:
        raise InvalidInputError(
            f"recorder {name!r} asks for {num_rows} rows; its data set has {source.num_rows}, and at least 1 is needed."
        )
    custom = isinstance(spec.loss, CustomLoss)
    rows = source.read(np.arange(num_rows or source.num_rows), only_tokens=not custom)
    loss = spec.loss
    if isinstance(loss, NextTokenLoss):
        rows = as_tokens(rows, name=label)
        check_tokens(rows, loss.adapter.vocab_size(spec.model), name=label)
        on_device = rows.placed(spec.device)
        if not loss.counts_text and _pads_before_text(rows):
            loss, _ = choose_positions(NextTokenLoss(loss.adapter), spec.model, [on_device])
        return Data(rows, loss, spec.settings.batch_size, loss.adapter, name)
    data = Data(rows, loss, spec.settings.batch_size, _adapter_or_none(spec.model, adapter), name)
    few = replace(data, rows=rows.subset(rows.ids[:2]))
    shape = tuple(next(iter(few.losses(spec.model))).shape[1:])
    return replace(data, rows=counting(rows, shape, spec.loss_dims))


def _pads_before_text(rows: Rows) -> bool:
    early = rows.padded_before_text
    return early is not None and bool(early.any())


def _adapter_or_none(model: nn.Module, adapter: str | ModelAdapter | None) -> ModelAdapter | None:
    try:
        return plugins.adapter_for(model, adapter)
    except InvalidInputError:
        if adapter is not None:
            raise
        return None
