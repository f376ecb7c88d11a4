"""A run of very many chains that cost nothing, on a Dask cluster of one-thread workers.

In ``tests``: ``python -m benchmarks.cluster_scale NUM_CHAINS FOLDER [--workers 16] [--s3]`` prints a line of JSON: what a chain
costs the scheduler, the client and the workers, how much memory of the client grows, how often the store is asked, and how long
the result takes to open.
"""

from __future__ import annotations

import argparse
import collections
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

import devinterp
from support.object_store import free_port, object_store, started

CHAINS_OF_A_RESTRICTION, DRAWS = 4, 2


class Null(nn.Module):
    """One weight; its loss is of no data."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, ids: Tensor) -> Tensor:
        return self.weight.square().expand(len(ids), ids.shape[1] - 1)


def loss(model: nn.Module, batch: Any) -> Tensor:
    """Return the losses of tokens."""
    losses: Tensor = model(batch["input_ids"] if isinstance(batch, dict) else batch)
    return losses


def seconds_of(process: psutil.Process) -> float:
    """Return the processor time of a process and its children."""
    parts = [process, *process.children(recursive=True)]
    return sum(sum(part.cpu_times()[:2]) for part in parts)


def requests(log: Path) -> dict[str, int]:
    """Count the requests that a server wrote down, by method."""
    return dict(collections.Counter(re.findall(r'"(GET|PUT|HEAD|DELETE|POST) ', log.read_text(errors="replace"))))


def main() -> None:
    """Run it and print what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("num_chains", type=int)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--s3", action="store_true")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    address = f"tcp://127.0.0.1:{free_port()}"
    port = address.rpartition(":")[2]
    scheduler = ("-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
    workers = ("-m", "distributed.cli.dask_worker", address, "--nworkers", str(arguments.workers), "--nthreads", "1",
               "--no-dashboard", "--memory-limit", "0")  # fmt: skip
    with (
        started(*scheduler, log=arguments.folder / "scheduler.log") as of_scheduler,
        started(*workers, log=arguments.folder / "workers.log") as of_workers,
    ):
        from distributed import Client

        processes = psutil.Process(of_scheduler.pid), psutil.Process(of_workers.pid)

        with Client(address, timeout=60) as client:
            client.wait_for_workers(arguments.workers, timeout=300)
            client.run(lambda: __import__("devinterp.slt.sampling"))
            if arguments.s3:
                with object_store(arguments.folder / "s3.log") as options:
                    where = {"output_path": "s3://runs/run.zarr", "storage_options": options}
                    result = measured(client, arguments.num_chains, where, processes)
                    result["requests"] = requests(arguments.folder / "s3.log")
            else:
                where = {"output_path": arguments.folder / "run.zarr"}
                result = measured(client, arguments.num_chains, where, processes)
    print(json.dumps(result))


def taken_by(processes: Sequence[psutil.Process]) -> list[float]:
    """Return the processor time of some processes and of this one, and the memory of this one."""
    return [*map(seconds_of, processes), time.process_time(), psutil.Process().memory_info().rss]


def measured(
    client: Any, num_chains: int, where: dict[str, Any], processes: Sequence[psutil.Process]
) -> dict[str, Any]:
    """Sample, and return what each part took."""
    before = taken_by(processes)
    begin = time.perf_counter()
    devinterp.sample(
        Null(), torch.zeros(8, 2, dtype=torch.long), client=client, loss_fn=loss, chains="sequential", **where,
        weight_restrictions={f"r{number}": None for number in range(num_chains // CHAINS_OF_A_RESTRICTION)},
        num_chains=CHAINS_OF_A_RESTRICTION, num_draws=DRAWS, lr=1e-3, n_beta=10.0, localization=1.0, batch_size=2,
        num_init_loss_batches=1, progress=False,
    )  # fmt: skip
    elapsed = time.perf_counter() - begin
    taken = [late - early for early, late in zip(before, taken_by(processes), strict=True)]
    begin = time.perf_counter()
    tree = devinterp.open(where["output_path"], storage_options=where.get("storage_options"))
    opened = time.perf_counter() - begin
    states = tree["status/state"].values
    assert (states == "finished").all()
    assert states.size == num_chains
    return {
        "chains": num_chains,
        "ms_of_elapsed": 1e3 * elapsed / num_chains,
        "ms_of_scheduler": 1e3 * taken[0] / num_chains,
        "ms_of_workers": 1e3 * taken[1] / num_chains,
        "ms_of_client": 1e3 * taken[2] / num_chains,
        "client_growth_mb": taken[3] / 1e6,
        "open_seconds": opened,
    }


if __name__ == "__main__":
    main()
