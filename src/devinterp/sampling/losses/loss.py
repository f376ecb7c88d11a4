"""The loss that defines the posterior, sample by sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from devinterp.errors import InvalidInputError
from devinterp.sampling.data.columns import Batch
from devinterp.sampling.losses import chunked_cross_entropy as chunked
from devinterp.sampling.losses.identity import LossIdentity, describe
from devinterp.sampling.losses.tied_embedding import added_in_place
from devinterp.sampling.losses.unembedding import Unembedding, last_hidden
from devinterp.types import ModelAdapter

#: ``loss_fn(model, batch)``: one loss per sample, with any trailing dims.
LossFunction: TypeAlias = Callable[[nn.Module, Batch], Tensor]


class Loss(ABC):
    """Losses of each sample of a batch, of shape ``(batch, *loss_dims)``, nats."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch, attention_mask: Tensor | None) -> Tensor:
        """Return the losses, differentiable with respect to the model's parameters where gradients are on."""

    def mean(
        self, model: nn.Module, batch: Batch, attention_mask: Tensor | None, counted: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the mean over the losses that count, differentiable, and the losses, detached.

        Parameters
        ----------
        model, batch, attention_mask
            As for `losses`.
        counted : Tensor, optional
            Which losses count, shaped like them; None where all do.
        """
        losses = self.losses(model, batch, attention_mask)
        return mean_unmasked(losses, counted), losses.detach()

    def functional(self) -> Loss:
        """Return the same loss in a form that function transforms (vmap) can go through."""
        return self


class NextTokenLoss(Loss):
    """Cross-entropy of the next token, ``(batch, position)``: position t predicts token t + 1.

    Parameters
    ----------
    adapter : ModelAdapter
        How to get logits from the model.
    counts_text : bool, default: False
        Whether the model is told the positions of masked rows, which then count tokens of text only.
    """

    def __init__(self, adapter: ModelAdapter, *, counts_text: bool = False) -> None:
        self.adapter, self.counts_text = adapter, counts_text

    def logits(self, model: nn.Module, batch: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Return next-token logits, ``(batch, token, vocabulary)``."""
        if attention_mask is None or not self.counts_text:
            return self.adapter.logits(model, batch, attention_mask)
        return self.adapter.logits(model, batch, attention_mask, position_ids=text_positions(attention_mask))

    def losses(self, model: nn.Module, batch: Batch, attention_mask: Tensor | None) -> Tensor:
        """Return the cross-entropy of every next token."""
        assert isinstance(batch, Tensor)
        logits = self.logits(model, batch, attention_mask)
        if logits.ndim != 3 or logits.shape[:2] != batch.shape:
            raise InvalidInputError(
                f"the model gave logits of shape {tuple(logits.shape)}; expected (batch, token, vocabulary) = "
                f"({batch.shape[0]}, {batch.shape[1]}, ...). For another kind of model pass `loss_fn=`."
            )
        return token_losses(logits, batch)


class ChunkedNextTokenLoss(NextTokenLoss):
    """The same from the last hidden states, in row chunks; the logits of a whole batch never exist.

    Parameters
    ----------
    adapter : ModelAdapter
        How to run the model.
    unembedding : Unembedding
        How it ends.
    tied : sequence of torch.nn.Embedding, optional
        Embeddings with the unembedding's weight, whose part of its gradient is added in place.
    counts_text : bool, default: False
        As in `NextTokenLoss`.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        unembedding: Unembedding,
        tied: Sequence[nn.Embedding] = (),
        *,
        counts_text: bool = False,
    ) -> None:
        super().__init__(adapter, counts_text=counts_text)
        self.unembedding, self._tied = unembedding, tied

    def losses(self, model: nn.Module, batch: Batch, attention_mask: Tensor | None) -> Tensor:
        """Return the cross-entropy of every next token; without a gradient."""
        return self.losses_of(self.hidden(model, batch, attention_mask), batch)

    def mean(
        self, model: nn.Module, batch: Batch, attention_mask: Tensor | None, counted: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the mean over the losses that count, with its gradient, and the losses."""
        with added_in_place(self._tied):
            hidden = self.hidden(model, batch, attention_mask)
        return self.sum_of_means(hidden, batch, counted)

    def functional(self) -> NextTokenLoss:
        """Return the loss from logits."""
        return NextTokenLoss(self.adapter, counts_text=self.counts_text)

    def hidden(self, model: nn.Module, batch: Batch, attention_mask: Tensor | None) -> Tensor:
        """Return the hidden states that predict a token, ``(batch, position, width)``; vmap can go through this."""
        assert isinstance(batch, Tensor)
        return last_hidden(self.unembedding, lambda: self.logits(model, batch, attention_mask))[:, :-1]

    def losses_of(self, hidden: Tensor, batch: Batch) -> Tensor:
        """Return the losses of hidden states, ``(*chain, batch, position)``; without a gradient.

        Parameters
        ----------
        hidden : Tensor
            ``(*chain, batch, position, width)``.
        batch : Tensor
            Token ids, ``(batch, token)``, or ``(*chain, batch, token)`` where chains have their own.
        """
        rows, weight, bias, targets = self._rows(hidden, batch)
        losses = chunked.token_losses(
            rows, weight, bias, targets, scale=self.unembedding.scale, cap=self.unembedding.cap
        )
        return losses.view(hidden.shape[:-1])

    def sum_of_means(self, hidden: Tensor, batch: Batch, counted: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the sum over chains of the mean over the losses that count, with its gradient, and the losses.

        Parameters
        ----------
        hidden, batch
            As for `losses_of`.
        counted : Tensor or None
            Which losses count, ``(batch, position)``, or ``(*chain, batch, position)`` where chains have their own; None where
            all do.
        """
        rows, weight, bias, targets = self._rows(hidden, batch)
        counts = torch.ones((), device=hidden.device) if counted is None else counted.float()
        counts = counts.expand(hidden.shape[:-1])
        shares = counts / counts.sum((-1, -2), keepdim=True).clamp(min=1)
        total, losses = chunked.WeightedLoss.apply(  # type: ignore[no-untyped-call]
            rows,
            weight,
            bias,
            targets,
            shares.flatten(),
            self.unembedding.scale,
            self.unembedding.cap,
        )
        return total, losses.view(hidden.shape[:-1])

    def _rows(self, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
        """Return hidden states and targets, a row for each prediction, and the unembedding in the dtype of the former."""
        assert isinstance(batch, Tensor)
        linear = self.unembedding.module
        bias: Tensor | None = linear.bias  # under autocast hidden states are in another dtype than weights
        bias = None if bias is None else bias.to(hidden.dtype)
        targets = batch[..., 1:].expand(hidden.shape[:-1]).flatten()
        return hidden.flatten(0, -2), linear.weight.to(hidden.dtype), bias, targets


class CustomLoss(Loss):
    """A user's ``loss_fn(model, batch)``, and what identifies it."""

    def __init__(self, function: LossFunction, identity: LossIdentity | None = None) -> None:
        self.function = function
        self.identity = describe(function) if identity is None else identity

    def losses(self, model: nn.Module, batch: Batch, attention_mask: Tensor | None) -> Tensor:
        """Return what the function gives."""
        return self.function(model, batch)


def text_positions(attention_mask: Bool[Tensor, "*batch token"]) -> Int[Tensor, "*batch token"]:
    """Return the position of each token among the tokens of text of its row; of padding that of the text before it, or 0."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def token_losses(logits: Float[Tensor, "batch token vocabulary"], input_ids: Tensor) -> Float[Tensor, "batch position"]:
    """Return the cross-entropy of each next token, in float32 whatever the logits are in."""
    flat = logits[:, :-1].reshape(-1, logits.shape[-1])
    losses = nn.functional.cross_entropy(flat.float(), input_ids[:, 1:].reshape(-1), reduction="none")
    return losses.view(input_ids.shape[0], -1)


def mean_unmasked(losses: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean over the unmasked losses."""
    if valid is None:
        return losses.mean()
    return torch.where(valid, losses, 0).sum() / valid.sum().clamp(min=1)


def masked(losses: Tensor, valid: Tensor | None) -> Tensor:
    """Return the losses with NaN where they are masked."""
    return losses if valid is None else torch.where(valid, losses, torch.nan)


def can_be_stored(losses: Tensor, largest: float) -> Tensor:
    """Return where losses are numbers that a store can hold: a boolean tensor on their device, so that nothing synchronises.

    Parameters
    ----------
    losses : Tensor
        In any precision.
    largest : float
        The largest number of the precision in which they are stored (`Settings.largest_loss`): beyond it, a loss that is finite
        would be stored as infinite.
    """
    return losses.abs() <= min(largest, torch.finfo(losses.dtype).max)


def all_finite(losses: Tensor, valid: Tensor | None, largest: float) -> Tensor:
    """Return whether all unmasked losses are numbers that a store can hold, as `can_be_stored`: one boolean."""
    return can_be_stored(losses if valid is None else torch.where(valid, losses, 0), largest).all()


def check_losses(losses: object, *, num_samples: int, expected: tuple[int, ...] | None, source: str) -> Tensor:
    """Raise unless losses are a float tensor with one entry per sample and the shape all others had.

    Parameters
    ----------
    losses : object
        What a loss function returned.
    num_samples : int
        Samples of the batch.
    expected : tuple of int or None
        Trailing shape, where it is known.
    source : str
        What made them, for the message.

    Raises
    ------
    InvalidInputError
        With the shape that was expected and the one that was got.
    """
    if not isinstance(losses, Tensor) or not losses.is_floating_point():
        kind = losses.dtype if isinstance(losses, Tensor) else type(losses).__name__
        raise InvalidInputError(f"{source} must return a float tensor of losses, one per sample; got {kind}.")
    wanted = "(batch, ...)" if expected is None else str((num_samples, *expected))
    if losses.ndim < 1 or losses.shape[0] != num_samples or (expected is not None and losses.shape[1:] != expected):
        raise InvalidInputError(
            f"{source} returned losses of shape {tuple(losses.shape)}; expected {wanted} for a batch of {num_samples}: return "
            "unreduced losses, for example with `reduction='none'`."
        )
    return losses
