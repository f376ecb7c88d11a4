"""When a checkpoint of chains is due: often, but at the cost of no more than a share of the run's time."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from typing import final

from devinterp import arguments
from devinterp.errors import InvalidInputError

#: Share of a run's time that checkpoints may take, unless the user says otherwise.
SHARE = 0.03
#: What is assumed before anything was measured: seconds for each checkpoint, and for each chunk flushed; bytes per second.
_GUESSED_SECONDS, _GUESSED_SECONDS_PER_CHUNK, _GUESSED_RATE = 0.01, 0.0005, 200e6


class CheckpointSchedule(ABC):
    """Says when a checkpoint is due."""

    @abstractmethod
    def is_due(self, *, last: bool) -> bool:
        """Say whether a checkpoint is due after this step, `last` if it is the chain's last one."""

    def copied(self, seconds: float) -> None:  # noqa: B027  # most need not know
        """Note how long copying a checkpoint has made the chains wait, and that it is on its way to the store."""

    def written(self, seconds: float) -> None:  # noqa: B027
        """Note how long writing a checkpoint has taken; called from the writer's thread."""


@final
class Disabled(CheckpointSchedule):
    """No checkpoint is ever due."""

    def is_due(self, *, last: bool) -> bool:
        """Return False."""
        return False


@final
class TimeBudget(CheckpointSchedule):
    """Checkpoints as often as a share of the run's time allows.

    Each costs the time to copy it, to flush what was gathered, and to write it. The next one is due when that is no more
    than `share` of the time since; the first when a guess from its size is.

    Parameters
    ----------
    num_bytes : int
        Size of a checkpoint.
    num_chunks : int, default: 0
        How many chunks are flushed with it: one for each chain and array.
    share : float, default: 0.03
        Share of the time, in (0, 1]; with 0 a checkpoint is due only when `stop` is set.
    keep_last : bool, default: False
        Whether one is due after the last step.
    stop : threading.Event, optional
        When set, a checkpoint is due at once, whatever it costs.
    """

    def __init__(
        self,
        num_bytes: int,
        *,
        num_chunks: int = 0,
        share: float = SHARE,
        keep_last: bool = False,
        stop: threading.Event | None = None,
    ) -> None:
        check_share(share)
        self._share, self._keep_last, self._stop = share, keep_last, stop
        self._busy, self._copying = False, 0.0
        flushing = num_chunks * _GUESSED_SECONDS_PER_CHUNK
        self._due = self._after(_GUESSED_SECONDS + flushing + num_bytes / _GUESSED_RATE)

    def is_due(self, *, last: bool) -> bool:
        """Say whether a checkpoint is due now; never while the one before is still being written."""
        if last:
            return self._keep_last
        if self._stop is not None and self._stop.is_set():
            return True
        return not self._busy and time.monotonic() >= self._due

    def copied(self, seconds: float) -> None:
        """Note how long copying has taken; nothing is due until `written` is called."""
        self._busy, self._copying = True, seconds

    def written(self, seconds: float) -> None:
        """Note how long writing has taken; the next checkpoint's time counts from here."""
        self._due = self._after(self._copying + seconds)
        self._busy = False

    def _after(self, seconds: float) -> float:
        return time.monotonic() + (seconds / self._share if self._share else float("inf"))


def check_share(share: float) -> None:
    """Raise unless this can be a share of a run's time."""
    if arguments.number("checkpoint_share", share) > 1:
        raise InvalidInputError(f"`checkpoint_share` (={share!r}) must be between 0 and 1: 0.03 is 3 % of the time.")
