"""One measurement in a process of its own, for the benchmark: ours and a plain implementation, in turns.

``python in_memory.py JOB`` prints a line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr

from devinterp.analyses.bif import compute_bif
from devinterp.analyses.bif.averaged import averaged_rows
from devinterp.analyses.bif.traces import Centring
from devinterp.analyses.common.convergence import summaries
from devinterp.analyses.susceptibilities import compute_susceptibilities
from devinterp.testing import synthetic_tree

NUM_SEQUENCES, NUM_POSITIONS = 128, 64


def seconds(function: Callable[[], Any]) -> float:
    """Return how long one call takes, its result's release not counted."""
    start = time.perf_counter()
    result = function()
    taken = time.perf_counter() - start
    del result
    return taken


def in_turns(repeats: int, **functions: Callable[[], Any]) -> dict[str, float]:
    """Return the best time of each: in turns, so that what else the machine does hits all of them."""
    best = dict.fromkeys(functions, np.inf)
    for _ in range(repeats):
        for name, function in functions.items():
            best[name] = min(best[name], seconds(function))
    return best


def pool(num_restrictions: int = 1, **observables: tuple[int, int]) -> xr.DataTree:
    """Return a run of 4 chains of 200 draws, its losses in the order of a store's."""
    tree = synthetic_tree(num_restrictions=num_restrictions, num_draws=200, num_tokens=2, observables=observables)
    for name in observables:
        loss = tree[f"observables/{name}/loss"]
        loss.values = np.ascontiguousarray(loss.values)
    return tree


def pairwise(traces: np.ndarray) -> np.ndarray:
    """Return token influences as DevInterp 2 computes them: for each pair of sequences all correlations of both together, of
    which the block between them is kept."""
    sequences = [torch.from_numpy(np.ascontiguousarray(traces[:, n].T)) for n in range(traces.shape[1])]
    blocks = np.empty((len(sequences), len(sequences), NUM_POSITIONS, NUM_POSITIONS), np.float32)
    for i, first in enumerate(sequences):
        for j, second in enumerate(sequences):
            blocks[i, j] = torch.corrcoef(torch.cat([first, second]))[:NUM_POSITIONS, NUM_POSITIONS:]
    return blocks


def token_bif() -> dict[str, float]:
    """All token influences, and their averages."""
    tree = pool(pool=(NUM_SEQUENCES, NUM_POSITIONS + 1))
    losses = tree["observables/pool/loss"].values
    traces = losses.reshape(-1, NUM_SEQUENCES, NUM_POSITIONS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several only get in each other's way on matrices so small
    start = time.perf_counter()
    blocks = pairwise(traces)
    found = {"pairwise": time.perf_counter() - start}
    torch.set_num_threads(threads)
    np.testing.assert_allclose(compute_bif(tree)["influences"], blocks, atol=5e-5)
    rows = np.random.default_rng(0).standard_normal((len(traces), NUM_SEQUENCES * NUM_POSITIONS), np.float32)
    other = rows.copy()
    found |= in_turns(5, token=lambda: compute_bif(tree), product=lambda: rows.T @ other)
    expected = blocks.mean((2, 3))
    average = lambda: compute_bif(tree, average_tokenwise_bif=True)  # noqa: E731
    np.testing.assert_allclose(average()["influences"], expected, atol=1e-5)
    del blocks, rows, other
    return found | in_turns(30, averaged=average, averaged_rows=lambda: averaged_rows(losses, centring=Centring()))


def sequence_bif() -> dict[str, float]:
    """Influences between sequences, 410 MB."""
    run = pool(pool=(1000, 129))
    losses = run["observables/pool/loss"].values[0]
    plain = lambda: np.corrcoef(losses.mean(-1).reshape(800, -1).T)  # noqa: E731
    ours = lambda: compute_bif(run, "sequence")  # noqa: E731
    np.testing.assert_allclose(ours()["influences"], plain(), atol=1e-4)
    return in_turns(10, ours=ours, plain=plain)


def susceptibilities() -> dict[str, float]:
    """Susceptibilities of two restrictions, 870 MB."""
    run = pool(2, train=(64, 129), pool=(1000, 129))
    task, losses = (run[f"observables/{name}/loss"].values for name in ("train", "pool"))
    start = float(run["observables/train/init_loss"].mean())  # of the task's own data, as in the paired coefficient

    def plain() -> np.ndarray:
        mean = task.mean((3, 4))
        phi = mean - start
        gap = mean[0].mean() - losses[0].mean((0, 1))
        return np.stack(
            [
                (f * m).mean() - (f[..., None, None] * loss).mean((0, 1)) - f.mean() * gap
                for f, m, loss in zip(phi, mean, losses, strict=True)
            ]
        )

    ours = lambda: compute_susceptibilities(run, "train", standard_errors="none")  # noqa: E731
    np.testing.assert_allclose(ours()["labelled/susceptibility"][:, 0], plain(), atol=1e-4)
    return in_turns(10, ours=ours, plain=plain)


def convergence() -> dict[str, float]:
    """R-hat, effective sample size and Monte Carlo error of a series."""
    from arviz_stats.base import array_stats

    series = np.random.default_rng(0).standard_normal((10_000, 4, 100))
    axes = {"chain_axis": 0, "draw_axis": 1}

    def one_by_one() -> None:
        for one in series[:100]:
            array_stats.rhat(one, **axes)
            array_stats.ess(one, method="mean", **axes)
            array_stats.mcse(one, method="mean", **axes)

    found = in_turns(3, ours=lambda: summaries(series), arviz=one_by_one)
    return {"ours": found["ours"] / len(series), "arviz": found["arviz"] / 100}


if __name__ == "__main__":
    jobs = {job.__name__: job for job in (token_bif, sequence_bif, susceptibilities, convergence)}
    print(json.dumps(jobs[sys.argv[1]]()))
