"""What is attributed: small models, their data, how they are trained, and how their posterior is sampled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from devinterp import optional, sources

#: Inputs and labels of some rows, stacked: images and their classes, or tokens and the tokens that follow.
Rows = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Training:
    """How a model is trained: with Adam, on the mean loss plus ``decay / 2`` times the sum of squares of all weights.

    Parameters
    ----------
    num_steps : int
        Steps, each with another minibatch.
    batch_size : int
        Rows of a minibatch, drawn with replacement.
    lr : float
        Step size; it falls to 0 along half a cosine.
    decay : float
        Of the squared weights.
    """

    num_steps: int
    batch_size: int
    lr: float
    decay: float


@dataclass(frozen=True)
class Posterior:
    """How the posterior around a trained model is sampled, at inverse temperature 1.

    Parameters
    ----------
    lr : dict of str to float
        Step size of each sampling method.
    localization : float
        Strength of the pull towards the trained weights; the prior of `Training.decay` is sampled beside it.
    batch_size : int
        Rows of a minibatch; the numbers of candidates and of queries are multiples of it.
    num_chains, num_draws, num_burnin_steps, num_steps_bw_draws : int
        Length of a run.
    """

    lr: dict[str, float]
    localization: float
    batch_size: int
    num_chains: int = 8
    num_draws: int = 1000
    num_burnin_steps: int = 1000
    num_steps_bw_draws: int = 10


@dataclass(frozen=True)
class Shape:
    """A kind of model with its data.

    Parameters
    ----------
    name : str
        Name of the shape.
    model : callable
        Returns an untrained model; its weights come from torch's global generator.
    data : callable
        Returns candidates (the training data) and queries.
    training : Training
        How models are trained.
    posterior : Posterior
        How the posterior is sampled.
    last_layer : str
        Name of the module whose inputs are a row's features, and which is sampled alone beside the whole model.
    trak_regularization : float
        What TRAK adds to the diagonal of its kernel, of projected gradients divided by the root of the number of weights: the
        power of ten with which it does best on logistic regression.
    """

    name: str
    model: Callable[[], nn.Module]
    data: Callable[[], tuple[Rows, Rows]]
    training: Training
    posterior: Posterior
    last_layer: str
    trak_regularization: float = 1e-2


def row_losses(model: nn.Module, batch: Any) -> Tensor:
    """Return the cross-entropy of each row in nats, its mean over positions where a row has several."""
    inputs, labels = batch
    losses = cross_entropy(model(inputs).flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)
    return losses if losses.ndim == 1 else losses.flatten(1).mean(1)


class Transformer(nn.Module):
    """A causal transformer of one layer over bytes.

    Parameters
    ----------
    width, num_heads, length : int
        Of the stream, of its attention, and the longest text.
    """

    VOCABULARY = 256

    def __init__(self, width: int = 32, num_heads: int = 4, length: int = 32) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.embed, self.place = nn.Embedding(self.VOCABULARY, width), nn.Embedding(length, width)
        self.first, self.second, self.last = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.head = nn.Linear(width, self.VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of the next byte, ``(text, position, byte)``."""
        stream = self.embed(tokens) + self.place.weight[: tokens.shape[1]]
        q, k, v = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.qkv(self.first(stream)).chunk(3, -1)
        )
        stream = stream + self.out(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        stream = stream + self.down(torch.relu(self.up(self.second(stream))))
        logits: Tensor = self.head(self.last(stream))
        return logits


def digits(num_candidates: int = 1000, num_queries: int = 200) -> tuple[Rows, Rows]:
    """Return images of digits, 64 brightnesses between 0 and 1 each, in a random order."""
    data = optional.require("sklearn.datasets", needed_by="a shape of digits").load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images, classes = torch.as_tensor(data.data)[order].float() / 16, torch.as_tensor(data.target)[order]
    return _split((images, classes), num_candidates, num_queries)


def texts(num_candidates: int = 512, num_queries: int = 128, length: int = 32) -> tuple[Rows, Rows]:
    """Return pieces of prose as bytes, in a random order, with the bytes that follow as labels."""
    prose = "\n\n".join(sources.load_texts(sources.PROSE)).encode()
    num = num_candidates + num_queries
    starts = torch.randperm(len(prose) // length - 1, generator=torch.Generator().manual_seed(0))[:num] * length
    pieces = torch.stack([torch.tensor(list(prose[start : start + length + 1])) for start in starts.tolist()])
    return _split((pieces[:, :-1], pieces[:, 1:]), num_candidates, num_queries)


def _split(rows: Rows, num_candidates: int, num_queries: int) -> tuple[Rows, Rows]:
    (inputs, labels), end = rows, num_candidates + num_queries
    return (inputs[:num_candidates], labels[:num_candidates]), (inputs[num_candidates:end], labels[num_candidates:end])


SHAPES = (
    Shape(
        name="logistic regression, digits",
        model=lambda: nn.Sequential(nn.Linear(64, 10)),
        data=digits,
        training=Training(num_steps=600, batch_size=100, lr=0.05, decay=1e-3),
        posterior=Posterior(lr={"baoab": 1e-3, "sgld": 1e-4}, localization=0.0, batch_size=100),
        last_layer="0",
    ),
    Shape(
        name="MLP, digits",
        model=lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)),
        data=digits,
        training=Training(num_steps=1000, batch_size=100, lr=0.01, decay=1e-3),
        posterior=Posterior(lr={"baoab": 5e-4, "sgld": 5e-5}, localization=1.0, batch_size=100),
        last_layer="2",
    ),
    Shape(
        name="transformer, text",
        model=Transformer,
        data=texts,
        training=Training(num_steps=600, batch_size=32, lr=0.01, decay=1e-3),
        posterior=Posterior(
            lr={"baoab": 1e-5, "sgld": 3e-6},
            localization=10.0,
            batch_size=32,
            num_chains=4,
            num_draws=500,
            num_steps_bw_draws=4,
        ),
        last_layer="head",
    ),
)
