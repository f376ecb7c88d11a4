"""The work of a computation, counted while it is done, and what it costs on a kind of device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

T = TypeVar("T")


@final
@dataclass(frozen=True)
class Work:
    """What a computation takes: tensor operations, floating-point operations of matrix products, elements others write."""

    operations: int
    flops: int
    elements: int

    def __str__(self) -> str:
        return f"{self.operations:,} operations, {self.flops:.3g} flops and {self.elements:.3g} elements"


@final
@dataclass(frozen=True)
class Cost:
    """What work costs on a kind of device: only the ratios matter, and only roughly.

    Parameters
    ----------
    operation : float
        Seconds of each tensor operation, whatever its size.
    flop, element : float
        Seconds of each floating-point operation of matrix products, and of each element that other operations write.
    """

    operation: float
    flop: float
    element: float

    def of(self, work: Work) -> float:
        """Return the seconds that some work is taken to need."""
        return self.overhead(work) + work.flops * self.flop + work.elements * self.element

    def overhead(self, work: Work) -> float:
        """Return how many of them are those of any operation, however small."""
        return work.operations * self.operation


#: Rounded from timings (docs/performance.md): two cores of a server, and an H100.
COSTS = {"cpu": Cost(8e-6, 5e-11, 5e-10), "cuda": Cost(1.2e-5, 3e-14, 1e-12)}


def cost_on(device: torch.device) -> Cost:
    """Return what work costs on a device."""
    return COSTS["cpu" if device.type == "cpu" else "cuda"]


def counted(compute: Callable[[], T]) -> tuple[T, Work]:
    """Return what a function returns, and the work that it took; the same on any machine and under any load."""
    with _Counter() as counter:  # type: ignore[no-untyped-call]
        result = compute()
    return result, Work(counter.operations, counter.flops, counter.elements)


class _Counting:
    """What is done with each operation.

    Apart from the mode, because torch wraps the method of a class of modes such that its first call imports the compiler, which
    takes as long as a short run.
    """

    operations = flops = elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        self.operations += 1
        flops: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
        if flops is not None:
            self.flops += int(flops(*args, **(kwargs or {}), out_val=output))
        elif isinstance(output, Tensor) and not func.is_view:
            self.elements += output.numel()
        return output


class _Counter(_Counting, TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that torch dispatches."""
