"""Names of DevInterp 1 that have no counterpart."""

from __future__ import annotations

from typing import Any

from devinterp.errors import InvalidInputError


class GradientDistribution:
    """Refuses: a callback of one's own gets the optimizer, whose parameters hold their gradients."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise InvalidInputError(
            "`GradientDistribution` is not available: pass a callback `def collect(chain, draw, model): ...` that reads "
            "`parameter.grad`."
        )
