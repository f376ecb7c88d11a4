"""The quickstart with one seed, in a process of its own.

``python quickstart_seed.py SEED FOLDER`` ends with a line of JSON: how long it took, memory, and how far chains converged.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from devinterp import schema
from devinterp.quickstart import quickstart, report


def main(seed: int, folder: Path) -> None:
    """Run it and print what it took."""
    start = time.perf_counter()
    tree = quickstart(seed=seed, output=folder, progress=False)
    seconds = time.perf_counter() - start
    rhat, ess = report.convergence(*report.estimates(tree, schema.observable_names(tree)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({"seconds": seconds, "peak_gb": peak, "rhat": rhat, "ess": ess}))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
