"""How much localization decides a coefficient: the slope between runs at a localization and at twice of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from devinterp.calibration.grid import STRONGER
from devinterp.calibration.judged import Failure, Figures, Judged

#: A slope of which less is known does not tell a coefficient that localization decides from one that the loss does.
MOST_ERROR = 0.2
_TINY = 1e-30


@dataclass(frozen=True)
class Slope:
    """How a coefficient falls where localization grows, ``-d log llc / d log localization``, at one place.

    Parameters
    ----------
    checkpoint, restriction : str
        Where that is.
    value, error : float
        The slope, 0 where localization has no part in the coefficient and 1 where it decides it, and its standard error.
    """

    checkpoint: str
    restriction: str
    value: float
    error: float

    @property
    def is_precise(self) -> bool:
        """Return whether the error is small enough for the slope to mean something."""
        return self.error <= MOST_ERROR

    def failure(self, localization: float, most: float) -> Failure | None:
        """Return why a setting with this localization is not used, where the slope is too uncertain or above `most`."""
        between = f"between localization {localization:g} and {STRONGER * localization:g}"
        if not self.is_precise:
            message = (
                f"how much the coefficient falls {between} is known to ± {self.error:.2g} only (as a power of localization; "
                f"limit {MOST_ERROR:g}): the budget allows no longer runs"
            )
            return self._failure("too_little_signal", message, self.error, MOST_ERROR)
        if self.value <= most:
            return None
        message = (
            f"{between} the coefficient falls as localization to the power {self.value:.2f} ± {self.error:.1g} "
            f"(limit {most:g}): localization decides too much of it; `max_slope=` allows more"
        )
        return self._failure("prior_dominated", message, self.value, most)

    def _failure(self, code: str, message: str, value: float, limit: float) -> Failure:
        return Failure(code, "reject", message, value, limit, self.checkpoint, self.restriction)


def worst_slope(weak: Sequence[Sequence[Judged]], strong: Sequence[Judged]) -> Slope:
    """Return the slope of the checkpoint and restriction where it is largest, or where least is known of it.

    Parameters
    ----------
    weak : sequence of sequence of Judged
        Runs at one localization, by checkpoint; several of them where they differ in their step alone.
    strong : sequence of Judged
        Runs at `STRONGER` times that localization.
    """
    slopes = list(_slopes(weak, strong))
    return max(slopes, key=lambda each: (not each.is_precise, each.error if not each.is_precise else each.value))


def _slopes(weak: Sequence[Sequence[Judged]], strong: Sequence[Judged]) -> Iterator[Slope]:
    for number, other in enumerate(strong):
        for restriction, at_strong in other.figures.items():
            at_weak = [run[number].figures[restriction] for run in weak]
            between = _between(at_weak, at_strong)
            # What one run says of the slope at its own localization is better where few weights are flat.
            known = [between, *((-each.s_gamma, each.s_gamma_se) for each in at_weak if each.s_gamma_se > 0)]
            yield Slope(other.checkpoint, restriction, *min(known, key=lambda each: each[1]))


def _between(weak: Sequence[Figures], strong: Figures) -> tuple[float, float]:
    """Return the difference of the coefficients' logarithms over that of localization, and its standard error."""
    weights = [max(each.llc_se, _TINY) ** -2 for each in weak]
    mean = sum(weight * each.llc for weight, each in zip(weights, weak, strict=True)) / sum(weights)
    if min(mean, strong.llc) <= 0:
        return math.nan, math.inf
    error = math.hypot(sum(weights) ** -0.5 / mean, strong.llc_se / strong.llc)
    return math.log(mean / strong.llc) / math.log(STRONGER), error / math.log(STRONGER)
