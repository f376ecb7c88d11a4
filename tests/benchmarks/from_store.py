"""Analyses as people call them: on the tree of a store, the first call and later ones, in a process of its own.

``python from_store.py [FOLDER]`` writes a run of 128 sequences of 64 tokens and 4 chains of 200 draws, and prints a line of JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from zarr.storage import LocalStore

import devinterp
from devinterp import schema
from devinterp.store.arrays.create import consolidate, create
from devinterp.store.arrays.layout import ObservableLayout, RunLayout

NUM_CHAINS, NUM_DRAWS, NUM_SEQUENCES, NUM_POSITIONS, BATCH = 4, 200, 128, 64, 32


def write(path: Path) -> None:
    """Write a run whose losses vary with four common directions."""
    rng = np.random.default_rng(0)
    layout = RunLayout(
        restrictions={"full": 10},
        num_chains=NUM_CHAINS,
        num_steps=NUM_DRAWS,
        draw_steps=np.arange(NUM_DRAWS),
        sequence_id=np.zeros((NUM_CHAINS, NUM_DRAWS, BATCH), np.int64),
        init_loss=np.full((NUM_CHAINS, NUM_POSITIONS), 2.5, np.float32),
        init_loss_se=np.full((NUM_CHAINS, NUM_POSITIONS), 0.01, np.float32),
        init_loss_mean=np.full(NUM_CHAINS, 2.5),
        init_loss_mean_se=np.full(NUM_CHAINS, 0.01, np.float32),
        observables={
            "pool": ObservableLayout(
                init_loss=np.full((NUM_SEQUENCES, NUM_POSITIONS), 2.5, np.float32),
                sequence_id=np.arange(NUM_SEQUENCES),
                token_ids=np.zeros((NUM_SEQUENCES, NUM_POSITIONS + 1), np.int64),
            )
        },
    )
    store = LocalStore(path)
    root = create(store, layout, {"config": json.dumps({"lr": 1e-3, "n_beta": 30.0, "num_burnin_steps": 0}), "provenance": "{}"})
    weights = rng.standard_normal((1, NUM_CHAINS, NUM_DRAWS, 4), np.float32)
    for name, count in (("trace", BATCH), ("observables/pool", NUM_SEQUENCES)):
        slope = 0.1 * rng.standard_normal((4, count * NUM_POSITIONS), np.float32)
        noise = 0.1 * rng.standard_normal((1, NUM_CHAINS, NUM_DRAWS, count * NUM_POSITIONS), np.float32)
        losses = 2.5 + weights @ slope + noise
        root[f"{name}/loss"][...] = losses.reshape(*losses.shape[:-1], count, NUM_POSITIONS)
    root[f"{schema.STATUS}/state"][...] = schema.FINISHED
    consolidate(store)


def seconds(function: Callable[[], Any]) -> float:
    """Return how long a call takes until its numbers are there."""
    start = time.perf_counter()
    result = function()
    result.load()
    return time.perf_counter() - start


def main(folder: str) -> None:
    """Print for each analysis the first call, the best of later ones, and the best on a tree in memory."""
    path = Path(folder) / "run.zarr"
    write(path)
    calls: dict[str, Callable[[xr.DataTree], Any]] = {
        "llc": lambda tree: tree.slt.llc(),
        "averaged": lambda tree: tree.slt.bif(average_tokenwise_bif=True),
        "sequence": lambda tree: tree.slt.bif(method="sequence"),
        "token": lambda tree: tree.slt.bif(method="token"),
    }
    devinterp.open(path).slt.llc().load()  # imports and plugins
    times = {}
    for name, call in calls.items():
        tree = devinterp.open(path)
        first = seconds(lambda tree=tree, call=call: call(tree))
        later = [seconds(lambda tree=tree, call=call: call(tree)) for _ in range(5)]
        memory = devinterp.open(path).load()
        best = min(seconds(lambda tree=memory, call=call: call(tree)) for _ in range(5))
        times[name] = {"first": first, "second": later[0], "later": min(later), "in_memory": best}
    print(json.dumps(times))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(temporary)
