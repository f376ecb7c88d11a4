"""A small transformer that learns induction: the second half of a text repeats the first, token by token."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

VOCABULARY, HALF, WIDTH, HEADS = 24, 12, 32, 4
#: Of training, in steps; checkpoints lie between its start and its end.
LAST_STEP, BATCH = 400, 64


class Attention(nn.Module):
    """Causal attention of a layer, whose output is added to the stream."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))

    def forward(self, stream: Tensor) -> Tensor:
        """Return the stream with what the heads add to it."""
        x = self.norm(stream)
        q, k, v = (part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        return stream + self.o(scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """Two layers of attention, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(2 * HALF, WIDTH)
        self.layers = nn.ModuleList([Attention(), Attention()])
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the logits of the next token."""
        stream = self.embed(ids) + self.place.weight[: ids.shape[1]]
        for layer in self.layers:
            stream = layer(stream)
        return self.head(self.norm(stream))


def texts(num: int, seed: int) -> Tensor:
    """Return random tokens, each text twice in a row, ``(text, 2 * HALF)``."""
    half = torch.randint(VOCABULARY, (num, HALF), generator=torch.Generator().manual_seed(seed))
    return half.repeat(1, 2)


def data() -> Tensor:
    """Return the texts to sample on."""
    return texts(512, seed=1000)


@cache
def training(seed: int) -> list[dict[str, Tensor]]:
    """Train a model from a seed, and return its weights after every step, the untrained ones first."""
    torch.manual_seed(seed)
    model = Transformer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    kept = []
    for step in range(LAST_STEP + 1):
        kept.append({name: value.clone() for name, value in model.state_dict().items()})
        ids = texts(BATCH, seed=10_000 * (seed + 1) + step)
        loss = cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return kept


def load(checkpoint: int, seed: int) -> Transformer:
    """Return the model of a training run after so many steps."""
    model = Transformer()
    model.load_state_dict(training(seed)[checkpoint])
    return model.eval()
