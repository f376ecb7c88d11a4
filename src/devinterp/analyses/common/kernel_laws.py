r"""What is known of kernels' laws on quadratics (docs/kernels.md): how far flat directions move, as multiples of SGLD's way.

The same number says how much more the noise of minibatches heats them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from devinterp import plugins
from devinterp.errors import MissingDataError

_REACHES: dict[str, Callable[[float], float]] = {
    "sgld": lambda friction: 1.0,
    "sgmcmc_sgld": lambda friction: 1.0,
    "leimkuhler_matthews": lambda friction: 1.0,
    "sghmc": lambda friction: 1 / friction,
    "baoab": lambda friction: (2 - friction) / friction,
}
_WITH_FRICTION = ("sghmc", "baoab")


def friction_of(kernel: str, options: Mapping[str, Any]) -> float:
    """Return the friction of a kernel with momentum, its default where none is given; 1 for one without."""
    if kernel not in _WITH_FRICTION:
        return 1.0
    friction = options.get("friction")
    if friction is None:
        friction = inspect.signature(plugins.kernel(kernel).build).parameters["friction"].default
    return float(friction)


def reach_of(kernel: str, options: Mapping[str, Any]) -> float:
    r"""Return :math:`\mathrm{E} |\Delta w|^2` of a step in a flat direction over long times, in units of the step size.

    Parameters
    ----------
    kernel : str
        Name of a kernel without preconditioner.
    options : mapping
        Its options.

    Raises
    ------
    MissingDataError
        For a kernel of which it is not known, or one that subtracts the noise of minibatches.
    """
    if kernel not in _REACHES or options.get("gradient_noise"):
        raise MissingDataError(
            f"what the noise of minibatches does is not known for the kernel {kernel!r} and {dict(options)}"
        )
    return _REACHES[kernel](friction_of(kernel, options))
