"""Building a kernel, also one whose steps take five arguments instead of one `devinterp.types.StepInputs`."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from devinterp.types import Kernel, StepInputs, Target, Transition

if TYPE_CHECKING:
    from torch import Tensor


def build_transition(kernel: Kernel, target: Target, *, lr: float, **options: Any) -> Transition:
    """Return a kernel with its settings, ready to take steps.

    Parameters
    ----------
    kernel : Kernel
        The algorithm.
    target : Target
        The posterior to sample.
    lr : float
        Step size.
    **options
        Its options, ``sampling_method_kwargs``.

    Returns
    -------
    Transition
        What ``kernel.build`` returns. Where its ``update`` takes ``values, gradients, origin, state, noise``, as it did
        before `StepInputs`, it is adapted, with a `DeprecationWarning` once for each kernel.
    """
    transition = kernel.build(target, lr=lr, **options)
    if not _takes_five_arguments(transition.update):
        return transition
    _warn(kernel.name)
    return _FiveArguments(transition)


@dataclass(frozen=True)
class _FiveArguments:
    """A kernel of the older form behind the methods of `Transition`."""

    kernel: Any

    def init(self, values: list[Tensor]) -> dict[str, list[Tensor]]:
        """Return the state of the kernel."""
        state: dict[str, list[Tensor]] = self.kernel.init(values)
        return state

    def update(self, step: StepInputs) -> None:
        """Take a step of the kernel."""
        self.kernel.update(step.values, step.gradients, step.initial_weights, step.state, step.noise)

    def terms(self, step: StepInputs) -> dict[str, list[Tensor]]:
        """Return the parts of a step of the kernel."""
        terms: dict[str, list[Tensor]] = self.kernel.terms(
            step.values, step.gradients, step.initial_weights, step.state, step.noise
        )
        return terms


def _takes_five_arguments(update: Callable[..., None]) -> bool:
    signature = inspect.signature(update)
    try:
        signature.bind(*"12345")
    except TypeError:
        return False
    try:
        signature.bind("1")
    except TypeError:
        return True
    return False  # any number of arguments


@functools.cache
def _warn(name: str) -> None:
    warnings.warn(
        f"kernel {name!r}: `update` and `terms` take `values, gradients, origin, state, noise`. This still works, but will not "
        "for ever: let them take one argument `step` (`devinterp.types.StepInputs`) and read `step.values`, `step.gradients`, "
        "`step.initial_weights` (was `origin`), `step.state` and `step.noise`.",
        DeprecationWarning,
        stacklevel=3,
    )
