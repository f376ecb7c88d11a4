"""What watches a chain at its draws, under the import path of DevInterp 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from devinterp.errors import InvalidInputError


class SamplerCallback:
    """What is called at every draw of every chain; others derive from it.

    Parameters
    ----------
    device : str or torch.device, default: "cpu"
        Where results are kept.
    """

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)

    def share_memory_(self) -> SamplerCallback:
        """Return itself: chains run in one process."""
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Take in a draw."""
        raise NotImplementedError

    def finalize(self, *args: Any, **kwargs: Any) -> None:
        """Compute what needs all draws."""

    def get_results(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the results by name."""
        raise NotImplementedError


def validate_callbacks(callbacks: Sequence[Any]) -> bool:
    """Raise unless all of them can be called."""
    for callback in callbacks:
        if not callable(callback):
            raise InvalidInputError(
                f"a callback must be a function or a SamplerCallback; got {type(callback).__name__}."
            )
    return True
