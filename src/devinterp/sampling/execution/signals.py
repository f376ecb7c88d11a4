"""Being asked to stop: finish the step, save, and go, instead of dying in the middle."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import final


@final
class Stop:
    """Whether and by what a run was asked to stop."""

    def __init__(self) -> None:
        self.requested = threading.Event()
        self.signal: int | None = None

    def request(self, number: int, _: FrameType | None = None) -> None:
        """Note a signal; a second interrupt ends the run where it is."""
        if number == signal.SIGINT and self.requested.is_set():
            raise KeyboardInterrupt
        self.signal = number
        self.requested.set()

    def raise_if_requested(self, how_to_go_on: str) -> None:
        """Raise what the signal stands for, once its time has come.

        Raises
        ------
        SystemExit
            With code 0, for SIGTERM: schedulers send it, and this run has done what it should. The message is printed.
        KeyboardInterrupt
            For Ctrl-C.
        """
        if not self.requested.is_set():
            return
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt(f"interrupted; {how_to_go_on}")
        raise Stopped(how_to_go_on)


class Stopped(SystemExit):
    """The process was told to end by SIGTERM; everything is saved."""

    def __init__(self, how_to_go_on: str) -> None:
        super().__init__(0)
        self.message = f"stopped by SIGTERM, everything is saved; {how_to_go_on}"

    def __str__(self) -> str:
        return self.message


@contextmanager
def listening() -> Iterator[Stop]:
    """Turn SIGTERM and the first Ctrl-C into requests while the block runs.

    Only where they would end the process as Python does by default: a handler of the caller's own stays, and so does
    everything outside the main thread.
    """
    stop = Stop()
    before = {}
    if threading.current_thread() is threading.main_thread():
        defaults = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
        for number, default in defaults.items():
            if signal.getsignal(number) == default:
                before[number] = signal.signal(number, stop.request)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
