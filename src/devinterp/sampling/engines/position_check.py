"""Decide whether a model is told the positions of text behind padding, so that padding changes no loss.

Many models count padding on the left, or inside of a row, as positions unless they are told otherwise; some count in a way of
their own. What a model does is tried on rows of the run's own data: the losses of a row must be those of the same text with
its padding moved to the right.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn

from devinterp.models.forward import evaluating
from devinterp.sampling.data.rows import Rows
from devinterp.sampling.engines.equivalence import Computed, differences, tolerance_of
from devinterp.sampling.losses.loss import NextTokenLoss

TOLD, ITS_OWN = "count tokens of text", "the model's own"


def choose_positions(loss: NextTokenLoss, model: nn.Module, sources: Iterable[Rows]) -> tuple[NextTokenLoss, str]:
    """Return the loss that treats text behind padding as the same text without it, and how positions are counted.

    Parameters
    ----------
    loss : NextTokenLoss
        The loss, which leaves positions to the model.
    model : torch.nn.Module
        The model.
    sources : iterable of Rows
        All data of the run.

    Returns
    -------
    loss : NextTokenLoss
        The given one, or one that tells the model the positions of tokens.
    note : str
        Which of them, and why; empty where no padding stands before text.

    Warns
    -----
    UserWarning
        If the model's losses depend on where padding stands in either case.
    """
    rows = [row for each in sources if (row := _row_with_padding(each)) is not None]
    if not rows:
        return loss, ""
    by_itself = _difference(loss, model, rows)
    told, when_told = NextTokenLoss(loss.adapter, counts_text=True), float("inf")
    if "position_ids" in inspect.signature(loss.adapter.logits).parameters:
        # What takes any keyword may fail at this one further down.
        with suppress(RuntimeError, ValueError, TypeError, LookupError, AttributeError):
            when_told = _difference(told, model, rows)
    tolerance = tolerance_of(model)
    # Where both are right, rounding must not decide; a model that counts in its own way is far off when it is told.
    is_right = when_told <= max(tolerance / 10, min(10 * by_itself, tolerance))
    chosen, note, worst = (told, TOLD, when_told) if is_right or when_told < by_itself else (loss, ITS_OWN, by_itself)
    if worst <= tolerance:
        return chosen, note
    warnings.warn(
        f"losses of text behind padding differ from those of the same text with padding on the right by {worst:.2g} times the "
        f"largest: {type(model).__name__} counts padding as text and cannot be told positions by `position_ids`. Pad on the "
        "right, or cut texts to one length.",
        stacklevel=2,
    )
    return chosen, f"{note}: losses depend on where padding stands, by {worst:.2g} times the largest"


def _row_with_padding(rows: Rows) -> tuple[Tensor, Tensor] | None:
    """Return ids and mask ``(1, token)`` of the row with most predicted tokens behind padding; None where there are none."""
    early, mask = rows.padded_before_text, rows.attention_mask
    if early is None or mask is None or not bool(early.any()):
        return None
    behind = mask.long().cummin(1).values == 0
    predicted = (mask[:, :-1] & mask[:, 1:] & behind[:, :-1]).sum(1)
    row = int(predicted.argmax())
    assert isinstance(rows.data, Tensor)
    return None if not predicted[row] else (rows.data[row : row + 1], mask[row : row + 1])


@torch.no_grad()
def _difference(loss: NextTokenLoss, model: nn.Module, rows: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Return by how much losses of rows differ from those with padding moved to the right, relative to the largest."""
    with evaluating(model):  # dropout would make any two losses differ
        got = [_predicted(loss, model, ids, mask) for ids, mask in rows]
        expected = [_moved_right(loss, model, ids, mask) for ids, mask in rows]
    return differences(Computed(got), Computed(expected))["losses"]


def _predicted(loss: NextTokenLoss, model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Return the losses of the tokens that follow another token of text."""
    return loss.losses(model, ids, mask)[0][mask[0, :-1] & mask[0, 1:]]


def _moved_right(loss: NextTokenLoss, model: nn.Module, ids: Tensor, mask: Tensor) -> Tensor:
    """Return the losses of the same tokens with all padding on the right."""
    order = torch.argsort((~mask[0]).long(), stable=True)
    losses = NextTokenLoss(loss.adapter).losses(model, ids[:, order], mask[:, order])[0]
    follows_text = (mask[0, :-1] & mask[0, 1:])[order[1 : int(mask.sum())] - 1]
    return losses[: int(mask.sum()) - 1][follows_text]
