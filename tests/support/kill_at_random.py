"""Kill a run at random instants until it ends by itself. Run as a script, so that no thread is there when it forks."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time

# As in conftest.py, which does not act here.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

from support.small_runs import in_child, run, wait  # noqa: E402


def main(path: str, settings: dict[str, object], kills: int, longest: float, seed: int) -> None:
    """Start the same run again and again, kill it so many times within so many seconds each, and print how it ended."""
    instants = random.Random(seed)
    killed = 0
    while True:
        child = in_child(lambda: run(path, **settings))
        if killed < kills:
            time.sleep(instants.uniform(0, longest))
            os.kill(child, signal.SIGKILL)
        code = wait(child)
        if code == -signal.SIGKILL:
            killed += 1
            continue
        print(json.dumps({"killed": killed, "code": code}))
        return


if __name__ == "__main__":
    path, options = sys.argv[1:]
    main(path, **json.loads(options))
