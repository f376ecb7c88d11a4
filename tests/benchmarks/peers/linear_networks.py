"""Deep linear networks and data without noise, for both sides of the comparison with canonical-interp."""

from __future__ import annotations

import torch
from torch import nn

#: Three square layers without biases: 972 and 99,372 weights.
WIDTHS = {"972 weights": 18, "99,372 weights": 182}
NUM_POINTS, BATCH, NUM_CHAINS, NUM_BURNIN, NUM_DRAWS = 4096, 256, 32, 100, 400
N_BETA, LOCALIZATION = 100.0, 5.0
#: Stable, and so small that chains of either side have the same bias.
STEP = {"972 weights": 1e-3, "99,372 weights": 1e-4}


def problem(name: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """Return a network, and inputs and targets that it fits."""
    torch.manual_seed(0)
    width = WIDTHS[name]
    model = nn.Sequential(*(nn.Linear(width, width, bias=False) for _ in range(3))).eval()
    inputs = torch.randn(NUM_POINTS, width)
    with torch.no_grad():
        return model, inputs, model(inputs)
