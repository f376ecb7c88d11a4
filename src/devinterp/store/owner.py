"""Which process holds a store, and whether it is still running."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

#: Seconds after its last heartbeat when an owner on another host counts as dead.
STALE = 120.0
#: Tokens of the locks that this process holds.
HELD_TOKENS: set[str] = set()


@dataclass(frozen=True)
class Owner:
    """The process that holds a store.

    Parameters
    ----------
    token : str
        Different for every lock ever taken.
    host : str
        Name of the machine.
    pid : int
        Number of the process.
    start_time : float or None
        When the process began (`start_time_of`), because process numbers are used again; None where unknown.
    since, heartbeat : float
        When the lock was taken, and when its owner last wrote to it; seconds since 1970.
    progress : dict
        How far the owner is, as it says itself.
    """

    token: str
    host: str
    pid: int
    start_time: float | None
    since: float
    heartbeat: float
    progress: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_dead(self) -> bool:
        """Whether this process has ended: on this machine it is looked up, on others an old heartbeat decides."""
        if self.host != platform.node():
            return time.time() - self.heartbeat > STALE
        if self.pid == os.getpid():
            return self.token not in HELD_TOKENS  # of an earlier process with this number
        return not _is_running(self.pid, self.start_time)

    def record(self, progress: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the store says of this owner from now on."""
        # Earlier versions compare `started`, in clock ticks, with the process of this number; 0 is unknown to them.
        return {**asdict(self), "started": 0, "heartbeat": time.time(), "progress": dict(progress)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Owner | None:
        """Return the owner that a record names, None where it is damaged."""
        try:
            # Earlier versions wrote `started`, in clock ticks, in place of `start_time`. Their start time is taken as unknown:
            # such an owner is dead only when no process has its number.
            start_time = record.get("start_time")
            return cls(
                str(record["token"]),
                str(record["host"]),
                int(record["pid"]),
                None if start_time is None else float(start_time),
                float(record["since"]),
                float(record["heartbeat"]),
                dict(record["progress"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            return None

    def __str__(self) -> str:
        ago = max(0, round(time.time() - self.heartbeat))
        return f"process {self.pid} on {self.host} (last sign of life {ago} s ago)"


def start_time_of(pid: int) -> float | None:
    """Return when a process began, in seconds, by a clock that is never set; None where that cannot be known."""
    try:
        # Linux counts from boot, and psutil adds the boot time, which moves whenever the clock is set: it is taken off again.
        boot_time = psutil.boot_time() if psutil.LINUX else 0.0
        return float(psutil.Process(pid).create_time() - boot_time)
    except (psutil.Error, OSError, ValueError, OverflowError):
        return None


def _is_running(pid: int, start_time: float | None) -> bool:
    """Say whether a process runs, and began at a time if that is known; what may not be asked counts as running."""
    try:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:  # has ended, though its number is still taken
            return False
    except psutil.NoSuchProcess:
        return False
    except (psutil.Error, OSError, ValueError, OverflowError):
        return True
    now = start_time_of(pid)
    # Boot times are whole seconds, and may be rounded otherwise the next time.
    return start_time is None or now is None or abs(now - start_time) < 2
