"""A constant of a recorder, which is copied to the device of the model once, and travels to other processes by the host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@final
class DeviceCopy:
    """A tensor of the host, with a copy on the device where it was used last.

    Parameters
    ----------
    tensor : Tensor
        The tensor.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor.cpu()
        self._copy: Tensor | None = None

    def on(self, device: torch.device) -> Tensor:
        """Return the tensor on a device."""
        if self._copy is None or self._copy.device != device:
            self._copy = self._tensor.to(device)
        return self._copy

    def __reduce__(self) -> tuple[Any, ...]:
        return DeviceCopy, (self._tensor,)
