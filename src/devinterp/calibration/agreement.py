"""Whether coefficients at a step and at half of it agree: a test of discretisation that needs no theory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from devinterp.calibration.judged import Figures, Judged

#: Of an error of the difference larger than this share of the coefficient agreement says nothing.
LEAST_PRECISION = 0.15


@dataclass(frozen=True)
class Comparison:
    """Coefficients at a step and at half of it, where they differ most against what is allowed.

    Parameters
    ----------
    checkpoint, restriction : str
        Where that is.
    difference : float
        Of the coefficients, as a share of the one at half the step.
    error : float
        Of the difference, likewise.
    allowed : float
        Two standard errors (more where several are compared), or half the wanted error where that is larger.
    """

    checkpoint: str
    restriction: str
    difference: float
    error: float
    allowed: float

    @property
    def agrees(self) -> bool:
        """Return whether the difference is allowed."""
        return abs(self.difference) <= self.allowed

    @property
    def is_precise(self) -> bool:
        """Return whether the error is small enough for agreement to mean something."""
        return self.error <= LEAST_PRECISION


def compare(whole: Sequence[Judged], half: Sequence[Judged], error: float) -> Comparison:
    """Compare the coefficients of all checkpoints and restrictions.

    Parameters
    ----------
    whole, half : sequence of Judged
        Runs at a step, and at half of it, by checkpoint.
    error : float
        Wanted relative error of the coefficient.

    Returns
    -------
    Comparison
        The worst: the least precise one, where one is not precise.
    """
    pairs = list(_pairs(whole, half))
    # As likely as two standard errors for one, that chance makes any of them differ by more.
    deviations = NormalDist().inv_cdf(1 - (1 - NormalDist().cdf(2)) / len(pairs))
    compared = []
    for checkpoint, restriction, one, other in pairs:
        size = abs(other.llc) or math.inf
        uncertainty = math.hypot(one.llc_se, other.llc_se) / size
        allowed = max(deviations * uncertainty, error / 2)
        compared.append(Comparison(checkpoint, restriction, (one.llc - other.llc) / size, uncertainty, allowed))
    return max(
        compared,
        key=lambda each: (
            not each.is_precise,
            each.error if not each.is_precise else 0.0,
            abs(each.difference) / each.allowed,
        ),
    )


def _pairs(whole: Sequence[Judged], half: Sequence[Judged]) -> Iterator[tuple[str, str, Figures, Figures]]:
    for one, other in zip(whole, half, strict=True):
        for restriction, figures in one.figures.items():
            yield one.checkpoint, restriction, figures, other.figures[restriction]
