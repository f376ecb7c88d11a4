"""An embedding that shares its weight with the unembedding: its part of the gradient is added in place.

Autograd makes two gradients of the size of the vocabulary, the unembedding's, dense, and the embedding's, zero but for the
rows of the batch, and adds them. Here those rows are added to the first, and the second is never made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from devinterp.sampling.losses.unembedding import Unembedding, replaced_forward


def tied_embeddings(model: nn.Module, unembedding: Unembedding) -> tuple[nn.Embedding, ...]:
    """Return the plain embeddings of a model that share their weight with its unembedding."""
    return tuple(
        m for m in model.modules() if type(m) is nn.Embedding and m.weight is unembedding.module.weight and _plain(m)
    )


@contextmanager
def added_in_place(embeddings: Sequence[nn.Embedding]) -> Iterator[None]:
    """Let gradients of embeddings that are run inside go straight into ``weight.grad``, when backward reaches them.

    Parameters
    ----------
    embeddings : sequence of torch.nn.Embedding
        From `tied_embeddings`.
    """
    with ExitStack() as stack:
        for embedding in embeddings:
            if embedding.weight.requires_grad and torch.is_grad_enabled():
                stack.enter_context(replaced_forward(embedding, _rows_of(embedding)))
        yield


def _plain(embedding: nn.Embedding) -> bool:
    """Return whether its gradient is a sum of rows and nothing else wraps it."""
    special = embedding.sparse or embedding.scale_grad_by_freq or embedding.max_norm is not None
    return not special and "forward" not in vars(embedding)


def _rows_of(embedding: nn.Embedding) -> Callable[[Tensor], Tensor]:
    anchor = torch.empty(0, requires_grad=True)  # makes what comes out part of the graph, but not of the weight's
    return lambda ids: _Rows.apply(anchor, ids, embedding)  # type: ignore[no-untyped-call]


class _Rows(torch.autograd.Function):
    """Rows of an embedding, whose backward pass adds to ``weight.grad``."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, ids: Tensor, embedding: nn.Embedding) -> Tensor:
        """Return the rows."""
        ctx.save_for_backward(ids)
        ctx.embedding = embedding
        return nn.functional.embedding(ids, embedding.weight)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:
        """Add the gradient of the rows."""
        (ids,), embedding = ctx.saved_tensors, ctx.embedding
        weight, padding = embedding.weight, embedding.padding_idx
        if weight.grad is None:  # the unembedding's comes first, unless the loss does not depend on it
            weight.grad = torch.zeros_like(weight)
        if padding is not None:
            gradient = gradient.masked_fill((ids == padding)[..., None], 0)
        weight.grad.index_put_((ids,), gradient, accumulate=True)  # deterministic on a GPU too; index_add_ is not
        return None, None, None
