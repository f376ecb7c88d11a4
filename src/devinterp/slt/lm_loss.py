"""The loss of a language model, under the import path of DevInterp 2."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from devinterp.errors import DevinterpError, InvalidInputError
from devinterp.plugins import adapter_for
from devinterp.sampling.losses.loss import LossFunction, token_losses

#: ``evaluate(model, batch)``: losses of each token, and what else is to be recorded.
EvaluateFn = Callable[[nn.Module, Any], tuple[Tensor, dict[str, Any]]]


class NonFiniteLogitsError(DevinterpError, ValueError):
    """A model gave logits that are not finite."""


def lm_forward_logits(model: nn.Module, input_ids: Tensor) -> Tensor:
    """Return the logits ``(batch, token, vocabulary)`` of any language model for token ids ``(batch, token)``."""
    return adapter_for(model).logits(model, input_ids)


def lm_cross_entropy_loss(logits: Tensor, input_ids: Tensor) -> Tensor:
    """Return the cross-entropy of each next token, ``(batch, token - 1)``, in float32.

    Raises
    ------
    NonFiniteLogitsError
        If a loss is not finite.
    """
    losses = token_losses(logits, input_ids)
    # One sum shows whether any loss is not finite; looking at every logit takes as long as the loss.
    if not bool(torch.isfinite(losses.detach().sum())):
        raise NonFiniteLogitsError(
            "the model gave logits that are not finite: use a smaller `lr` or more `localization`."
        )
    return losses


def compute_per_token_loss(model: nn.Module, input_ids: Tensor) -> Tensor:
    """Return the cross-entropy of each next token, ``(batch, token - 1)``: the loss that runs have by default.

    Raises
    ------
    NonFiniteLogitsError
        If a loss is not finite.
    """
    return lm_cross_entropy_loss(lm_forward_logits(model, input_ids), input_ids)


def make_evaluate_fn(loss_fn: LossFunction | None = None) -> EvaluateFn:
    """Return the ``evaluate`` of `devinterp.slt.sampler.sample_single_chain` for a loss function.

    Parameters
    ----------
    loss_fn : callable, optional
        ``loss_fn(model, input_ids)``; default: `compute_per_token_loss`.
    """
    loss = compute_per_token_loss if loss_fn is None else loss_fn
    if not callable(loss):
        raise InvalidInputError(f"`loss_fn` must be a function of (model, input_ids); got {type(loss_fn).__name__}.")

    def evaluate(model: nn.Module, batch: Any) -> tuple[Tensor, dict[str, Any]]:
        keyed = isinstance(batch, Mapping) or not isinstance(batch, Tensor)
        return loss(model, batch["input_ids"] if keyed else batch), {}

    return evaluate
