"""What flows back to whoever started a run: progress, requests to stop, the loss of the store's lock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import final

from devinterp.sampling.execution.progress import Update
from devinterp.sampling.execution.signals import Stop


@final
class RunMonitor:
    """The one object through which a run is watched and asked to stop, in this process or a worker.

    Parameters
    ----------
    show : callable
        Is given every `Update`.
    stop : Stop, optional
        Whether somebody asked for an end.
    check_owner : callable, optional
        Raises when this process may not go on, because it lost the lock of the store.
    how_to_go_on : str
        What to tell a person who asked for an end.
    tell : callable, optional
        Is given which ways of computing were chosen, and why, as soon as that is known.
    """

    def __init__(
        self,
        show: Callable[[Update], None],
        stop: Stop | None = None,
        check_owner: Callable[[], None] | None = None,
        how_to_go_on: str = "run it again to go on",
        tell: Callable[[Mapping[str, str]], None] | None = None,
    ) -> None:
        self.show, self.stop, self.tell = show, stop or Stop(), tell or _ignore
        self._check_owner, self._how_to_go_on = check_owner, how_to_go_on

    def check_owner(self) -> None:
        """Raise `devinterp.errors.StoreError` when this process may not write any more."""
        if self._check_owner is not None:
            self._check_owner()

    def raise_if_stopped(self) -> None:
        """Raise what stands for the signal, if somebody asked for an end; see `Stop.raise_if_requested`."""
        self.stop.raise_if_requested(self._how_to_go_on)


def _ignore(choices: Mapping[str, str]) -> None:
    """Tell nobody: the driver of a worker learns what it chose from the results of its tasks."""
