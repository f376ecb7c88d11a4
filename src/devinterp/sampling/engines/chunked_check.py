"""Decide whether a language model's loss is computed from hidden states in chunks, without ever holding all logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from devinterp.errors import first_line
from devinterp.models.kept_attributes import attributes_kept
from devinterp.sampling.engines.equivalence import FAILURES, Computed, tolerance_of, why_refused
from devinterp.sampling.losses.loss import ChunkedNextTokenLoss, NextTokenLoss, masked
from devinterp.sampling.losses.tied_embedding import tied_embeddings
from devinterp.sampling.losses.unembedding import NoUnembedding, Unembedding, find_unembedding
from devinterp.sampling.model_guard import own_randomness

_FEW = 8


@torch.no_grad()
def choose_loss(
    plain: NextTokenLoss,
    model: nn.Module,
    batch: Tensor,
    attention_mask: Tensor | None,
    counted: Tensor | None = None,
) -> tuple[NextTokenLoss, str]:
    """Return the chunked form of a loss if it gives the same losses on a batch, and which was chosen and why.

    Parameters
    ----------
    plain : NextTokenLoss
        The loss from logits.
    model : torch.nn.Module
        The model.
    batch, attention_mask : Tensor
        A few sequences, ``(batch, token)``.
    counted : Tensor, optional
        Which of their losses count, ``(batch, position)``; None where all do.

    Returns
    -------
    loss : NextTokenLoss
        `plain` where the model does not end as `devinterp.sampling.losses.unembedding` knows, or the losses differ.
    note : str
        ``"chunked"``, or ``"plain: "`` and why.
    """
    try:
        unembedding = _unembedding(plain, model, batch[:1])
    except NoUnembedding as why:
        return plain, f"plain: {why}"
    chunked = ChunkedNextTokenLoss(
        plain.adapter, unembedding, tied_embeddings(model, unembedding), counts_text=plain.counts_text
    )

    def computed(loss: NextTokenLoss) -> Computed:
        with own_randomness(0, cuda=batch.is_cuda):  # both see the same dropout
            return Computed([masked(loss.losses(model, batch, attention_mask), counted)])

    reason = why_refused(
        lambda: computed(chunked), lambda: computed(plain), how="without its logits", tolerance=tolerance_of(model)
    )
    return (chunked, "chunked") if reason is None else (plain, f"plain: {reason}")


def _unembedding(plain: NextTokenLoss, model: nn.Module, tokens: Tensor) -> Unembedding:
    """Return how a model ends, found on a few tokens, or on a whole sequence where it takes no shorter one."""
    for few in (tokens[:, :_FEW], tokens):
        try:
            with torch.enable_grad(), attributes_kept(model):
                return find_unembedding(model, lambda ids: plain.adapter.logits(model, ids), few)
        except FAILURES as error:
            failure = error
    raise NoUnembedding(f"the model does not run on a part of a batch ({first_line(failure)})")
