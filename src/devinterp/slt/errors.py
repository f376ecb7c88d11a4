"""What single chains raise."""

from __future__ import annotations

from devinterp.errors import DevinterpError


class ChainHealthError(DevinterpError, FloatingPointError):
    """The loss of a chain is not finite."""
