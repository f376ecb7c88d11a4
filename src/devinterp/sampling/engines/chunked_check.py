"""Decide whether a language model's loss is computed from hidden states in chunks, without ever holding all logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from devinterp.sampling.engines.equivalence import Computed, tolerance_of, why_refused
from devinterp.sampling.losses.loss import ChunkedNextTokenLoss, NextTokenLoss, masked
from devinterp.sampling.losses.tied_embedding import tied_embeddings
from devinterp.sampling.losses.unembedding import NoUnembedding, find_unembedding


@torch.no_grad()
def choose_loss(
    plain: NextTokenLoss, model: nn.Module, batch: Tensor, attention_mask: Tensor | None
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

    Returns
    -------
    loss : NextTokenLoss
        `plain` where the model does not end as `devinterp.sampling.losses.unembedding` knows, or the losses differ.
    note : str
        ``"chunked"``, or ``"plain: "`` and why.
    """
    try:
        with torch.enable_grad():
            unembedding = find_unembedding(model, lambda ids: plain.adapter.logits(model, ids), batch[:1, :8])
    except NoUnembedding as why:
        return plain, f"plain: {why}"
    chunked = ChunkedNextTokenLoss(
        plain.adapter, unembedding, tied_embeddings(model, unembedding), counts_text=plain.counts_text
    )

    def computed(loss: NextTokenLoss) -> Computed:
        return Computed([masked(loss.losses(model, batch, attention_mask), loss.valid(attention_mask))])

    reason = why_refused(
        lambda: computed(chunked), lambda: computed(plain), how="without its logits", tolerance=tolerance_of(model)
    )
    return (chunked, "chunked") if reason is None else (plain, f"plain: {reason}")
