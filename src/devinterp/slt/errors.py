"""What single chains raise."""

from __future__ import annotations

import math

from devinterp.errors import DevinterpError


class ChainHealthError(DevinterpError, FloatingPointError):
    """The loss of a chain is not finite."""


def check_health(loss: float, step: int) -> None:
    """Raise `ChainHealthError` unless the mean loss of a step is finite."""
    if not math.isfinite(loss):
        raise ChainHealthError(f"the loss is not finite at step {step}: use a smaller `lr` or more `localization`.")
