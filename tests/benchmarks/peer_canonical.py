"""canonical-interp's side of ``make bench-peers``; runs in an environment of its own, and imports nothing of ours.

Reads a problem (``.npz``) and commands from standard input, a line each, and answers each with a line of JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

if not hasattr(itertools, "batched"):  # it wants Python 3.12 for this function alone

    def batched(iterable: Iterable[Any], n: int) -> Iterator[tuple[Any, ...]]:
        """Yield tuples of n items, the last one shorter, as `itertools.batched` does."""
        iterator = iter(iterable)
        while part := tuple(itertools.islice(iterator, n)):
            yield part

    itertools.batched = batched  # type: ignore[attr-defined]
