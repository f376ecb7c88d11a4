"""Toy models of superposition: six features in a plane settle into polygons, whose coefficients are known (arXiv:2310.06301).

A model reads one feature at a time, ``x = u e_i``, and has to say it again through two hidden units. At the 5-gon whose sixth
output is silent 14 of 18 directions cost loss to second order, so that the coefficient is 7; at the others 17, so 17/2.
"""

import math

import torch
from torch import Tensor, nn

import devinterp

FEATURES, SIZES = 6, 64
#: Name, corners, bias of features without a corner, coefficient.
POLYGONS = (("5-gon", 5, -0.5, 7.0), ("5-gon, loud", 5, 1 / 12, 8.5), ("6-gon", 6, 0.0, 8.5))


class Superposition(nn.Module):
    """``ReLU(W^T W x + b)``, its first features near the corners of a polygon."""

    def __init__(self, corners: int, other_bias: float) -> None:
        super().__init__()
        angles = 2 * math.pi * torch.arange(FEATURES) / corners
        weights = 1.2 * torch.stack([angles.cos(), angles.sin()]) * (torch.arange(FEATURES) < corners)
        self.weights = nn.Parameter(weights.double())
        self.bias = nn.Parameter(torch.where(torch.arange(FEATURES) < corners, -0.3, other_bias).double())

    def forward(self, x: Tensor) -> Tensor:
        """Return the features as they come out."""
        return torch.relu(x @ self.weights.mT @ self.weights + self.bias)


def loss_fn(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    """Return the squared error of each row."""
    return (model(batch[0]) - batch[0]).square().sum(1)


def settle(model: nn.Module, x: Tensor) -> nn.Module:
    """Train to the minimum nearby."""
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_fn(model, (x,)).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return model.float()


data = torch.cat([(size + 0.5) / SIZES * torch.eye(FEATURES).double() for size in range(SIZES)])
run = {"n_beta": 1e6, "localization": 300.0, "lr": 1e-6, "num_draws": 500, "num_burnin_steps": 500, "num_steps_bw_draws": 3}
for name, corners, other_bias, known in POLYGONS:
    model = settle(Superposition(corners, other_bias), data)
    tree = devinterp.sample(model, (data.float(),), loss_fn=loss_fn, batch_size=len(data), sampling_method="baoab", **run)
    llc = tree.slt.llc()
    print(f"{name:12}{float(llc.paired_llc_mean):6.2f} ± {float(llc.paired_llc_se):.2f}, exact {known}, {llc.verdict}")
