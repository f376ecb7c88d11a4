"""Run the same work with this package and with a peer, in turns, check that the results agree, and print the ratios.

``python compare.py PYTHON_OF_DEVINTERP_2 PYTHON_OF_CANONICAL_INTERP``; `make bench-peers` builds both environments.
``DEVINTERP_BENCH_TURNS`` sets how often each side does a job; default: 4.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
#: Threads that either side may use, and how often each does a job.
THREADS, TURNS = 2, int(os.environ.get("DEVINTERP_BENCH_TURNS", "4"))


class Worker:
    """A process of one side, which stays warm from job to job."""

    def __init__(self, python: str, script: str, *arguments: str) -> None:
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, str(THREADS)), "HF_HUB_OFFLINE": "1"}
        command = [python, str(HERE / script), *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )

    def do(self, **job: Any) -> tuple[float, Any]:
        """Do a job, and return how long it took and what it answered."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(job) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        for line in self.process.stdout:
            if line.startswith("="):
                answer = json.loads(line[1:])
                return answer["seconds"], answer["answer"]
        assert self.process.stderr is not None
        raise RuntimeError(f"{self.process.args} ended at {job}:\n{self.process.stderr.read()[-3000:]}")

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def in_turns(
    label: str,
    ours: Callable[[], tuple[float, Any]],
    theirs: Callable[[], tuple[float, Any]],
    check: Callable[[Any, Any], str],
    turns: int = TURNS,
) -> None:
    """Do the same job on both sides in turns, so that what else the machine does hits both, and print the best times."""
    times: tuple[list[float], list[float]] = ([], [])
    answers: list[Any] = [None, None]
    for _ in range(turns):
        for side, work in enumerate((ours, theirs)):
            seconds, answers[side] = work()
            times[side].append(seconds)
    first, best = (times[0][0], times[1][0]), (min(times[0]), min(times[1]))
    print(
        f"{label:34s} ours {best[0]:8.3f} s, theirs {best[1]:8.3f} s: {best[1] / best[0]:6.2f} times as long "
        f"(first calls {first[0]:.2f} and {first[1]:.2f} s); {check(*answers)}",
        flush=True,
    )


def same_arrays(ours: str, theirs: str, *, atol: float) -> str:
    """Check that two arrays in files are equal within a tolerance."""
    first, second = np.load(ours), np.load(theirs)
    assert first.shape == second.shape, (first.shape, second.shape)
    both = np.isfinite(first) & np.isfinite(second)
    largest = float(np.abs(first - second)[both].max())
    assert both.mean() > 0.99, "nearly all numbers must be finite on both sides"
    assert largest <= atol, f"they differ by up to {largest:g} (allowed: {atol:g})"
    return f"largest difference {largest:.1e}"


def same_mean(ours: dict[str, float], theirs: dict[str, float]) -> str:
    """Check that two means agree within five of their errors."""
    apart = (ours["mean"] - theirs["mean"]) / math.hypot(ours["error"], theirs["error"])
    assert abs(apart) < 5, f"means differ by {apart:.1f} errors: {ours}, {theirs}"
    return f"mean losses {ours['mean']:.5f} and {theirs['mean']:.5f}, {abs(apart):.1f} errors apart"


def devinterp_2(python: str) -> None:
    """The same script with both packages: sampling with the same seeds, and analyses of what either stored."""
    print(f"\nDevInterp 2.0.1: 4 chains of 200 draws, 128 sequences of 64 predicted tokens, {THREADS} threads")
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        ours = Worker(sys.executable, "devinterp2.py", str(THREADS))
        theirs = Worker(python, "devinterp2.py", str(THREADS))
        for job, atol, turns in (
            ("sample", 1e-4, 1),
            ("llc", 1e-2, TURNS),
            ("token", 2e-3, TURNS),
            ("averaged", 1e-4, TURNS),
        ):
            in_turns(
                {"token": "token BIF", "averaged": "averaged BIF"}.get(job, job),
                lambda job=job: ours.do(job=job, folder=first),
                lambda job=job: theirs.do(job=job, folder=second),
                lambda a, b, atol=atol: same_arrays(a, b, atol=atol),
                turns,
            )
        ours.close()
        theirs.close()


def canonical_interp(python: str) -> None:
    """Chains side by side on small networks: only our side writes a store."""
    print(f"\ncanonical-interp: deep linear networks, 32 chains of 500 steps of 256 points, {THREADS} threads")
    ours, theirs = Worker(sys.executable, "ours.py"), Worker(python, "canonical.py")
    for name in ("972 weights", "99,372 weights"):
        for compiled in (False, True):
            in_turns(
                f"{name}, theirs {'compiled' if compiled else 'not compiled'}",
                lambda name=name: ours.do(job="sample", name=name),
                lambda name=name, compiled=compiled: theirs.do(job="sample", name=name, compiled=compiled),
                same_mean,
                min(TURNS, 2) if name == "99,372 weights" else TURNS,
            )
    ours.close()
    theirs.close()


if __name__ == "__main__":
    devinterp_2(sys.argv[1])
    canonical_interp(sys.argv[2])
