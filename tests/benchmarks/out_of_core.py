"""One job in a process of its own, for the benchmark: make a store of losses, or analyse it with no more than 2 GB of memory.

``python out_of_core.py write STORE GIGABYTES``, ``python out_of_core.py ANALYSIS STORE RESULT``.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar

import numpy as np
import zarr
from zarr.storage import LocalStore

from devinterp import schema
from devinterp.store.arrays.create import consolidate, create_run
from devinterp.store.arrays.layout import ObservableLayout, RunLayout

LIMIT = 2 * 2**30
RESTRICTIONS, CHAINS, DRAWS, TOKENS = 2, 4, 200, 129
SETTINGS = {"lr": 1e-3, "n_beta": 30.0, "num_burnin_steps": 0, "num_steps_bw_draws": 1}


def _layout(
    num_restrictions: int, num_chains: int, num_draws: int, observables: dict[str, tuple[int, int]]
) -> RunLayout:
    return RunLayout(
        restrictions={"full": 10, **{f"part{n}": 5 for n in range(1, num_restrictions)}},
        num_chains=num_chains,
        num_steps=num_draws,
        draw_steps=np.arange(num_draws),
        sequence_id=np.zeros((num_chains, num_draws, 2), np.int64),
        init_loss=np.full((num_chains, 8), 2.5, np.float32),
        init_loss_se=np.full((num_chains, 8), 0.01, np.float32),
        init_loss_mean=np.full(num_chains, 2.5),
        init_loss_mean_se=np.full(num_chains, 0.01, np.float32),
        observables={
            name: ObservableLayout(
                init_loss=np.full((num_sequences, num_tokens - 1), 2.5, np.float32),
                sequence_id=np.arange(num_sequences),
                token_ids=np.zeros((num_sequences, num_tokens), np.int64),
            )
            for name, (num_sequences, num_tokens) in observables.items()
        },
    )


def _finish(store: LocalStore, root: zarr.Group) -> None:
    root[f"{schema.STATUS}/state"][...] = schema.FINISHED
    root["trace/loss"][...] = 2.5 + np.random.default_rng(0).standard_normal(root["trace/loss"].shape, np.float32)
    consolidate(store)


def write(path: str, gigabytes: str) -> None:
    """Make a store with so many GB of losses: traces of a few common directions, and noise."""
    num_sequences = int(float(gigabytes) * 1e9 / (4 * RESTRICTIONS * CHAINS * DRAWS * (TOKENS - 1)))
    store = LocalStore(path)
    layout = _layout(RESTRICTIONS, CHAINS, DRAWS, {"train": (64, TOKENS), "pool": (num_sequences, TOKENS)})
    root = create_run(store, layout, {"config": json.dumps(SETTINGS), "provenance": "{}"})
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((RESTRICTIONS, CHAINS, DRAWS, 4), np.float32)
    noise = rng.standard_normal((2**22,), np.float32) * 0.1
    for name in ("train", "pool"):
        array = root[f"observables/{name}/loss"]
        draws, sequences = array.chunks[2:4]
        for first in range(0, array.shape[3], sequences):
            count = min(sequences, array.shape[3] - first)
            slope = rng.standard_normal((4, count * (TOKENS - 1)), np.float32) * 0.1
            for r in range(RESTRICTIONS):
                for c in range(CHAINS):
                    for start in range(0, DRAWS, draws):
                        block = weights[r, c, start : start + draws] @ slope + 2.5
                        offset = int(rng.integers(2**21))
                        block += np.resize(noise[offset:], block.shape)
                        stop = start + len(block)
                        array[r, c, start:stop, first : first + count] = block.reshape(len(block), count, -1)
    _finish(store, root)


def write_many(path: str) -> None:
    """Make a store with 400 restrictions and 10 observables, all of them tiny."""
    store = LocalStore(path)
    observables = {f"observable{n}": (2, 4) for n in range(10)}
    root = create_run(store, _layout(400, 4, 2, observables), {"config": json.dumps(SETTINGS), "provenance": "{}"})
    _finish(store, root)


def open_(path: str) -> None:
    """Print how long it takes to open a store."""
    import devinterp.store.reading.open as opening

    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        tree = opening.open(path)
        best = min(best, time.perf_counter() - start)
    assert len(schema.observable_names(tree)) == 10
    print(json.dumps({"seconds": best}))


class CountingStore(LocalStore):
    """A store that counts how often each chunk is read."""

    reads: ClassVar[Counter[str]] = Counter()

    async def get(self, key, prototype=None, byte_range=None):
        if "/loss/c/" in key:
            CountingStore.reads[key] += 1
        return await super().get(key, prototype, byte_range)


def analyse(name: str, path: str, target: str) -> None:
    """Run an analysis, write its result, and print what it took."""
    import dask
    import xarray as xr

    from devinterp.analyses.bif import compute_bif
    from devinterp.analyses.diagnosis import diagnose
    from devinterp.analyses.llc import compute_llc
    from devinterp.analyses.susceptibilities import compute_susceptibilities

    # All memory that is not a file's: the process dies if it asks for more.
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    dask.config.set(scheduler="threads", num_workers=2)
    tree = xr.open_datatree(CountingStore(path, read_only=True), engine="zarr", chunks={})
    start = time.perf_counter()
    if name == "sequence":
        found = compute_bif(tree, "sequence", loss_keys="pool")[["influences"]]
    elif name == "averaged":
        found = compute_bif(tree, average_tokenwise_bif=True, loss_keys="pool")[["influences"]]
    elif name == "strongest":
        queries = {"pool": (slice(0, 64), [63])}
        found = compute_bif(tree, queries=queries, candidates="pool", top_k=20)[
            ["influences", "candidate_sequence", "candidate_position"]
        ]
    elif name == "strongest_sequences":
        found = compute_bif(tree, queries={"pool": slice(0, 64)}, candidates="pool", top_k=20)[
            ["influences", "candidate_sequence"]
        ]
    elif name == "susceptibilities":
        found = compute_susceptibilities(tree, "train")["labelled"].to_dataset()
    elif name == "llc":
        found = compute_llc(tree)
    elif name == "diagnose":
        found = diagnose(tree)
        found = found.assign(
            {n: v.astype(str).astype(object) for n, v in found.variables.items() if v.dtype.kind in "OU"}
        )
    else:
        raise SystemExit(f"unknown analysis {name!r}")
    found.drop_encoding().to_zarr(target, consolidated=False)
    seconds = time.perf_counter() - start
    read = {"pool": tree["observables/pool/loss"].data}
    if name in ("llc", "susceptibilities", "diagnose"):
        read["train"] = tree["observables/train/loss"].data
    num_chunks = sum(array.npartitions for array in read.values())
    reads = sum(count for key, count in CountingStore.reads.items() if key.startswith("observables"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    query_share = 1 / read["pool"].numblocks[3] if name.startswith("strongest") else 0
    print(
        json.dumps(
            {"seconds": seconds, "peak_gb": peak, "reads_per_chunk": reads / num_chunks, "query_share": query_share}
        )
    )


if __name__ == "__main__":
    job, *arguments = sys.argv[1:]
    jobs = {"write": write, "write_many": write_many, "open": open_}
    if job in jobs:
        jobs[job](*arguments)
    else:
        analyse(job, arguments[0], str(Path(arguments[1])))
