"""Many short chains side by side, for the laws of small potentials."""

from __future__ import annotations

from typing import Any

import xarray as xr
from torch import nn

from devinterp import sample


def many_chains(model: nn.Module, data: Any, loss: Any, **settings: Any) -> xr.DataTree:
    """Sample 48 chains of 300 draws after 120 steps, but for settings that say otherwise."""
    usual: dict[str, Any] = {
        "num_chains": 48,
        "num_burnin_steps": 120,
        "num_draws": 300,
        "batch_size": 2,
        "num_init_loss_batches": 1,
        "chains": "vectorized",
        "progress": False,
    }
    tree = sample(model, data, loss_fn=loss, **{**usual, **settings})
    assert isinstance(tree, xr.DataTree)
    return tree
