"""The side of a worker in ``make bench-peers``: does a job each time it is told to, in one process that stays warm.

It imports nothing but the standard library, because peers live in environments of their own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any


def serve(jobs: dict[str, Callable[..., Any]]) -> None:
    """Answer each line of standard input, JSON with a job's name and its arguments, with a line that begins with ``=``."""
    for line in sys.stdin:
        arguments = json.loads(line)
        job = jobs[arguments.pop("job")]
        start = time.perf_counter()
        answer = job(**arguments)
        print("=" + json.dumps({"seconds": time.perf_counter() - start, "answer": answer}), flush=True)
