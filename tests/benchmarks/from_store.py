"""Analyses as people call them: on the tree of a store, the first call and later ones, in a process of its own.

``python from_store.py`` samples a run of 128 sequences of 64 tokens, 4 chains of 200 draws, and prints a line of JSON.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import nn

import devinterp

NUM_CHAINS, NUM_DRAWS, BATCH, NUM_BATCHES, NUM_TOKENS = 4, 200, 32, 4, 65


def write(path: Path) -> None:
    """Sample a small model."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 8), nn.Linear(8, 50)).eval()
    data = torch.randint(50, (BATCH * NUM_BATCHES, NUM_TOKENS))
    devinterp.sample(
        model,
        data,
        {"pool": (data, NUM_BATCHES)},
        lr=1e-3,
        n_beta=30.0,
        num_chains=NUM_CHAINS,
        num_draws=NUM_DRAWS,
        batch_size=BATCH,
        output_path=path,
    )


def timed(function: Callable[[], Any]) -> float:
    """Return how long a call takes, its result's release not counted."""
    start = time.perf_counter()
    result = function()
    taken = time.perf_counter() - start
    del result
    return taken


def seconds(function: Callable[[], Any]) -> float:
    """Return how long a call takes until its numbers are there."""
    return timed(lambda: function().load())


def main(folder: str) -> None:
    """Print for each analysis the first call, the best of later ones, the best in memory, and the same with Dask; and what the
    sums of all losses take in numpy."""
    path = Path(folder) / "run.zarr"
    write(path)
    calls: dict[str, Callable[[xr.DataTree], Any]] = {
        "llc": lambda tree: tree.slt.llc(),
        "averaged": lambda tree: tree.slt.bif(average_tokenwise_bif=True),
        "sequence": lambda tree: tree.slt.bif(method="sequence"),
        "token": lambda tree: tree.slt.bif(method="token"),
    }
    run = devinterp.open(path)
    run.slt.llc().load()  # imports and plugins
    losses = [run[name].values for name in ("observables/pool/loss", "trace/loss")]
    sums = [timed(lambda: [each.sum(-1, dtype=float) for each in losses]) for _ in range(10)]
    times: dict[str, dict[str, float]] = {"sums": {"memory_later": min(sums)}}
    for name, call in calls.items():
        trees = {
            "store": devinterp.open(path),
            "memory": devinterp.open(path).load(),
            "dask": devinterp.open(path, eager_bytes=0),
        }
        times[name] = {}
        for kind, tree in trees.items():
            taken = [seconds(lambda tree=tree, call=call: call(tree)) for _ in range(6)]
            times[name] |= {f"{kind}_first": taken[0], f"{kind}_later": min(taken[1:])}
    print(json.dumps(times))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(temporary)
