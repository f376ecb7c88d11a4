"""The one comparison that every fast path must pass before it is used: the same losses and gradients as the plain path.

Four fast paths exist (docs/sampling.md): losses from hidden states in chunks, layers below a weight restriction computed
once, chains side by side, and compiled layers. Each computes the same numbers by another route, and each is refused with a
reason where it does not run or gives other numbers on a few rows of the run's own data.

The rule: an element may differ by a tolerance times the largest element that it is compared with. A wrong loss is worse than
a slow one, so the tolerance is that of rounding (`TOLERANCES`). Gradients add up more roundings, and are allowed ten times as
much; a gradient that is zero but for rounding, such as that of the bias of attention keys, is held against a tenth of the
steepest one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from devinterp.errors import first_line

#: Relative to the largest loss, by the dtype that losses are computed in.
TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
_GRADIENTS, _STEEPEST = 10.0, 0.1

#: What torch and models raise where a path does not fit them.
FAILURES = (RuntimeError, NotImplementedError, ValueError, TypeError, LookupError, AttributeError, UserWarning)


@final
@dataclass(frozen=True)
class Computed:
    """What a path gives on some rows.

    Parameters
    ----------
    losses : sequence of Tensor
        NaN where masked.
    gradients : sequence of Tensor, optional
        Of the sampled parameters, in one order.
    """

    losses: Sequence[Tensor]
    gradients: Sequence[Tensor] = ()


def why_refused(
    fast: Callable[[], Computed], plain: Callable[[], Computed], *, how: str, tolerance: float
) -> str | None:
    """Return why a fast path may not be used, or None where it may.

    Parameters
    ----------
    fast, plain : callable
        Compute the same rows at the same weights, by the fast and by the plain path.
    how : str
        How the fast path runs the model, for the reason: "the model does not run <how>".
    tolerance : float
        From `tolerance_of`.
    """
    try:
        computed = fast()
    except FAILURES as error:
        return f"the model does not run {how} ({first_line(error)})"
    expected = plain()
    for kind, size in differences(computed, expected).items():
        if not size <= tolerance:
            return f"{kind} differ by {size:.2g} {how}"
    return None


def differences(fast: Computed, plain: Computed) -> dict[str, float]:
    """Return by how much losses and gradients of a fast path differ, in the unit of the tolerance."""
    losses = max(map(_relative, fast.losses, plain.losses), default=0.0)
    steepest = max((float(gradient.abs().max()) for gradient in plain.gradients if gradient.numel()), default=0.0)
    floors = [_STEEPEST * steepest] * len(plain.gradients)
    gradients = max(map(_relative, fast.gradients, plain.gradients, floors), default=0.0)
    return {"losses": losses, "gradients": gradients / _GRADIENTS}


def tolerance_of(model: nn.Module, *, same_arithmetic: bool = False) -> float:
    """Return how far losses may differ, relative to the largest.

    Parameters
    ----------
    model : torch.nn.Module
        The model, whose coarsest dtype decides.
    same_arithmetic : bool, default: False
        Whether the fast path does the very operations of the plain one on the very numbers, so that even results in half
        precision agree to the rounding of float32.
    """
    if same_arithmetic:
        return TOLERANCES[torch.float32]
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    dtypes |= {torch.get_autocast_dtype(kind) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)}
    return max(
        (TOLERANCES.get(dtype, TOLERANCES[torch.float16]) for dtype in dtypes), default=TOLERANCES[torch.float32]
    )


def _relative(fast: Tensor, plain: Tensor, least: float = 0.0) -> float:
    """Return the largest difference relative to the largest element, infinite for another shape or a stray NaN."""
    if fast.shape != plain.shape:
        return float("inf")
    if not plain.numel():
        return 0.0
    masked = plain.isnan()
    largest = torch.where(masked, 0, plain).abs().max().clamp(min=max(least, torch.finfo(plain.dtype).tiny))
    worst = torch.where(masked, 0, fast - plain).abs().max()
    return float("inf") if not bool(torch.isfinite(worst)) else float(worst / largest)
