"""What was computed, as far as there is room: what was not asked for longest goes first."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any


class Cache:
    """Values of bounded size together; can be used from several threads.

    Parameters
    ----------
    max_bytes : int
        Of all values together; a larger value is not kept at all.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes, self._num_bytes = max_bytes, 0
        self._values: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any | None:
        """Return the value of a key, or None."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: Any, num_bytes: int) -> None:
        """Keep a value of so many bytes."""
        with self._lock:
            self._num_bytes -= self._values.pop(key, (None, 0))[1]
            if num_bytes > self._max_bytes:
                return
            self._values[key] = (value, num_bytes)
            self._num_bytes += num_bytes
            while self._num_bytes > self._max_bytes:
                self._num_bytes -= self._values.popitem(last=False)[1][1]

    @property
    def num_bytes(self) -> int:
        """Return the size of all values together."""
        return self._num_bytes
