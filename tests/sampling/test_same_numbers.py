"""The same call gives the same numbers, bit for bit, however busy the machine is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import xarray as xr
from torch import nn

from devinterp import sample
from support.small_models import ids, make, same_numbers

SETTINGS: dict[str, Any] = {
    "lr": 1e-3,
    "n_beta": 20.0,
    "localization": 5.0,
    "num_chains": 4,
    "num_draws": 6,
    "batch_size": 4,
    "num_init_loss_batches": 2,
    "batches_per_draw": 1,
    "save_metrics": True,
    "progress": False,
}


@contextmanager
def busy_machine() -> Iterator[None]:
    """Keep more processes busy than there are cores."""
    spin = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(spin) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def choices(tree: xr.DataTree) -> dict[str, str]:
    return json.loads(tree.attrs["provenance"])["paths"]


class Wide(nn.Module):
    """So large that chains side by side save nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Embedding(23, 256), nn.Linear(256, 256), nn.Linear(256, 23)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.mix(self.embed(ids))))


def wide() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Wide().eval()


@pytest.mark.heavy
@pytest.mark.parametrize(("build", "record"), [(make, "token"), (wide, "moments")])
def test_idle_and_loaded(build, record, tmp_path):
    def run(name: str) -> xr.DataTree:
        observables = {"code": ids("code")}
        path = tmp_path / f"{name}.zarr"
        tree = sample(build(), ids(), observables, record=record, checkpoint_share=1.0, output_path=path, **SETTINGS)
        return tree.load()

    idle = run("idle")
    with busy_machine():
        loaded = run("loaded")
    assert choices(loaded) == choices(idle)
    assert "operations" in choices(idle)["chains/full"]
    same_numbers(loaded, idle)
