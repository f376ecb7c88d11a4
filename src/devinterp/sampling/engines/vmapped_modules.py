"""What is run under vmap: a model with its loss, or without its unembedding where all chains share that."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from devinterp.sampling.data.rows import Minibatch
from devinterp.sampling.losses.loss import ChunkedNextTokenLoss, Loss


class LossModule(nn.Module):
    """A model and its loss as one module, so that both see the values that are put in.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    loss : Loss
        A loss that vmap can go through.
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Minibatch) -> tuple[Tensor, Tensor]:
        """Return the mean loss and the losses."""
        return self.loss.mean(self.model, *batch)


class HiddenModule(nn.Module):
    """A model without its unembedding, whose losses are computed of all chains together.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    loss : ChunkedNextTokenLoss
        Knows how the model ends.
    """

    def __init__(self, model: nn.Module, loss: ChunkedNextTokenLoss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Minibatch) -> Tensor:
        """Return the hidden states that predict a token."""
        return self.loss.hidden(self.model, batch.data, batch.attention_mask)


def chunks_for(loss: Loss, sampled: Iterable[nn.Parameter]) -> ChunkedNextTokenLoss | None:
    """Return the loss in chunks where all chains share the unembedding; None where it is sampled or there is no such loss.

    Parameters
    ----------
    loss : Loss
        The loss of the run.
    sampled : iterable of torch.nn.Parameter
        The sampled parameters.
    """
    if not isinstance(loss, ChunkedNextTokenLoss):
        return None
    unembedding = {id(p) for p in loss.unembedding.module.parameters()}
    return None if any(id(p) in unembedding for p in sampled) else loss
