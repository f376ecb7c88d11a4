"""Where stacked rows are: on the device of a run, or on the host, from where minibatches are copied while it computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

#: Rows of one data set that take more bytes stay on the host. Results do not depend on it.
DEVICE_BYTES = 2**30


def copied_to(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device; neither waits for the other."""
    if device.type == "cpu":
        return tensor
    return (tensor.pin_memory() if can_pin() else tensor).to(device, non_blocking=True)


def can_pin() -> bool:
    """Say whether there is a device for which memory of the host can be pinned."""
    return torch.cuda.is_available()


def objects_to(objects: list[Any], device: torch.device) -> list[Any]:
    """Return objects on a device, as far as they can be moved (tensors, graphs)."""
    return [_object_to(each, device) for each in objects]


def _object_to(value: Any, device: torch.device) -> Any:
    return value.to(device) if callable(getattr(value, "to", None)) else value


@dataclass
class HostCopies:
    """Copies of minibatches whose rows are on the host; at most one is made ahead of its use.

    Parameters
    ----------
    device : torch.device
        To where they are copied.
    """

    device: torch.device
    _ahead: tuple[bytes, Any, Any] | None = field(default=None, repr=False)

    @classmethod
    def for_rows(cls, device: torch.device, num_bytes: int) -> HostCopies | None:
        """Return what copies minibatches of rows of this size to a device; None where they are to be on it altogether."""
        return cls(device) if device.type != "cpu" and num_bytes > DEVICE_BYTES else None

    def __reduce__(self) -> tuple[Any, ...]:
        return HostCopies, (self.device,)

    def begin(self, ids: np.ndarray, select: Callable[[np.ndarray], Any]) -> None:
        """Begin to copy a minibatch beside what a GPU computes; other devices copy when it is used."""
        if self.device.type != "cuda":
            return
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        selected = select(ids)
        with torch.cuda.stream(stream):
            copied = self._copied(selected)
        self._ahead = ids.tobytes(), copied, stream

    def take(self, ids: np.ndarray, select: Callable[[np.ndarray], Any]) -> Any:
        """Return a minibatch on the device: the one that was begun, if it is this."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead[0] != ids.tobytes():
            return self._copied(select(ids))
        _, copied, stream = ahead
        current = torch.cuda.current_stream(self.device)
        current.wait_stream(stream)
        tree_map(lambda x: x.record_stream(current) if isinstance(x, Tensor) else None, copied)
        return copied

    def _copied(self, selected: Any) -> Any:
        def copy(value: Any) -> Any:
            if isinstance(value, Tensor):
                return copied_to(value, self.device)
            return _object_to(value, self.device)

        return tree_map(copy, selected)
