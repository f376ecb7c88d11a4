"""Response matrix, components and neighbours of many tokens, each step in a process of its own with at most 4 GB of memory.

``python structure_scale.py write STORE TOKENS`` makes the store of a run that recorded moments; ``python structure_scale.py
STEP STORE FOLDER`` makes a step and prints a line of JSON: seconds and the largest resident memory in GB.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import xarray as xr

RESTRICTIONS, DRAWS, WIDTH, CLUSTERS, LATENT = 400, 10, 129, 50, 12
LIMIT = 4 * 10**9


def write(path: str, num_tokens: str) -> None:
    """Make a run whose tokens lie in clusters in twelve dimensions, which 400 restrictions respond to, with noise."""
    from zarr.storage import LocalStore

    from devinterp import schema
    from devinterp.store.arrays.create import consolidate, create_run
    from devinterp.store.arrays.layout import ObservableLayout, RunLayout

    num_sequences = int(num_tokens) // (WIDTH - 1)
    layout = RunLayout(
        restrictions={"full": 10, **{f"part{n}": 5 for n in range(RESTRICTIONS)}},
        num_chains=1,
        num_steps=DRAWS,
        draw_steps=np.arange(DRAWS),
        sequence_id=np.zeros((1, DRAWS, 2), np.int64),
        init_loss=np.full((1, 8), 2.5, np.float32),
        init_loss_se=np.full((1, 8), 0.01, np.float32),
        init_loss_mean=np.full(1, 2.5),
        init_loss_mean_se=np.full(1, 0.01, np.float32),
        record="moments",
        observables={
            name: ObservableLayout(
                init_loss=np.full((count, WIDTH - 1), 2.5, np.float32),
                sequence_id=np.arange(count),
                token_ids=np.zeros((count, WIDTH), np.int64),
            )
            for name, count in {"train": 4, "text": num_sequences}.items()
        },
    )
    store = LocalStore(path)
    counts = {"num_chains": 1, "num_draws": DRAWS, "num_burnin_steps": 0, "num_steps_bw_draws": 1}
    settings = {"lr": 1e-3, "n_beta": 30.0, "record": "moments", **counts}
    root = create_run(store, layout, {"config": json.dumps(settings), "provenance": "{}"})
    rng = np.random.default_rng(0)
    root["observables/train/mean_loss"][...] = 2.6 + 0.1 * rng.normal(size=root["observables/train/mean_loss"].shape)
    shape = (num_sequences, WIDTH - 1)
    label = rng.integers(CLUSTERS, size=shape)
    tokens = 3 * rng.normal(size=(CLUSTERS, LATENT))[label] + rng.normal(size=(*shape, LATENT))
    tokens, loadings = tokens.astype(np.float32), rng.normal(size=(RESTRICTIONS + 1, LATENT)).astype(np.float32)
    group = root["observables/text"]
    task = list(layout.observables).index("train")
    for r in range(RESTRICTIONS + 1):
        group["loss_mean"][r, 0] = np.full(shape, 2.6, np.float32)
        group["loss_comoment"][r, 0, task] = tokens @ loadings[r] + 0.5 * rng.standard_normal(shape, np.float32)
    root[f"{schema.STATUS}/state"][...] = schema.FINISHED
    consolidate(store)


def step(name: str, path: str, folder: str) -> None:
    """Make a step, write its result, and print what it took."""
    import dask

    from devinterp_structure import neighbours, pca, response_matrix, transformed

    # All memory that is not a file's: the process dies if it asks for more.
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    dask.config.set(scheduler="threads", num_workers=2)

    def stored(what: str) -> xr.Dataset:
        return xr.open_zarr(Path(folder) / f"{what}.zarr", consolidated=False)

    start = time.perf_counter()
    if name == "raw":
        tree = xr.open_datatree(path, engine="zarr", chunks={})
        result = response_matrix(tree, "train", steps=(), leave_out_chains=False)
    elif name == "matrix":
        result = transformed(stored("raw"), ("z_score", "centre_rows"))
    elif name == "pca":
        result = pca(stored("matrix"), num_components=50)
    elif name == "neighbours":
        result = neighbours(stored("pca"), method="approximate")
    else:
        result = neighbours(stored("matrix"), method="approximate" if name == "neighbours_400" else "exact")
    result.drop_encoding().to_zarr(Path(folder) / f"{name}.zarr", consolidated=False)
    seconds = time.perf_counter() - start
    figures = {"seconds": seconds, "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9}
    if "recall" in result:
        figures["recall"] = float(stored(name)["recall"])
    if name == "pca":
        figures["explained"] = float(stored(name)["explained_variance_ratio"][:LATENT].sum())
    print(json.dumps(figures))


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(*sys.argv[2:])
    else:
        step(*sys.argv[1:])
