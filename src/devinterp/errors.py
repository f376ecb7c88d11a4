"""What this package raises.

Every error says what was expected, what was got, and what to do. The children also derive from the built-in exception a
caller would expect, so that ``except ValueError`` keeps working.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr

    from devinterp.calibration.result import Calibration


class DevinterpError(Exception):
    """Base of every error this package raises on purpose."""


class InvalidInputError(DevinterpError, ValueError):
    """An argument, a dataset or a model cannot be used as given."""


class MissingPackageError(InvalidInputError, ImportError):
    """What was asked for needs an optional package that is not installed; the message has the command that installs it."""


class MissingDataError(DevinterpError, KeyError):
    """A tree lacks variables that an analysis needs."""

    def __str__(self) -> str:
        # KeyError would print the repr of the message.
        return str(self.args[0]) if self.args else ""


class BrokenChainsError(DevinterpError, ValueError):
    """A tree holds chains that diverged or did not finish, and nobody said what to do about them.

    Attributes
    ----------
    tree : xarray.DataTree or None
        What was sampled, where the error was raised by a function that sampled it.
    """

    def __init__(self, message: str, *, tree: xr.DataTree | None = None) -> None:
        super().__init__(message)
        self.tree = tree


class StoreError(DevinterpError, OSError):
    """A store cannot be read, or cannot be written."""


class StoreMismatchError(StoreError):
    """An existing store holds another run than the one asked for."""


class StudyError(DevinterpError, RuntimeError):
    """No run of a study could be made."""


class OutOfMemoryError(DevinterpError, MemoryError):
    """A device has not enough memory for a step; the message says which batch size would fit."""


class CalibrationRefused(DevinterpError, RuntimeError):  # noqa: N818  # what it says is an answer
    """No setting that was tried gives a run whose numbers can be used; the message says what failed at each.

    Attributes
    ----------
    calibration : devinterp.calibration.Calibration or None
        What was measured and tried.
    """

    def __init__(self, message: str, *, calibration: Calibration | None = None) -> None:
        super().__init__(message)
        self.calibration = calibration


class PluginError(DevinterpError, RuntimeError):
    """A plugin cannot be loaded, or two plugins provide the same name."""


class PluginWarning(UserWarning):
    """A plugin was left out because it cannot be loaded; the rest work."""


class DivergenceWarning(UserWarning):
    """Chains of a run diverged; their state is recorded and analyses refuse them."""


class FailedRunsWarning(UserWarning):
    """Runs of a study failed; what was wrong is recorded, and the others are complete."""


def first_line(error: BaseException, limit: int = 100) -> str:
    """Return the first line of what an error says, at most `limit` characters; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:limit]
