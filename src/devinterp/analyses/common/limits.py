"""The limits beyond which a figure of a run is noted, warned of, or a reason not to use its numbers, each with its source.

Where the source is "fitted", the limit was set on runs of problems with known learning coefficients, made with good and bad
settings at random; docs/diagnosis.md shows how often verdicts are right there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

_FITTED = "fitted (docs/diagnosis.md)"


@dataclass(frozen=True)
class Limit:
    """Limits of one figure.

    Parameters
    ----------
    note, warning, reject : float
        A figure beyond these has this severity; infinite where there is none.
    below : bool, default: False
        Whether figures below a limit are beyond it.
    source : str
        Where it comes from.
    """

    note: float = math.inf
    warning: float = math.inf
    reject: float = math.inf
    below: bool = False
    source: str = _FITTED

    def judge(self, value: float) -> tuple[str, float] | None:
        """Return the severity of a figure and the limit it is beyond, None where it is beyond none."""
        for severity in ("reject", "warning", "note"):
            limit = getattr(self, severity)
            if math.isfinite(limit) and (value < limit if self.below else value > limit):
                return severity, limit
        return None


_RHAT = "1.1: Gelman and Rubin 1992. The 1.01 of arXiv:1903.08008 few good runs have, and errors say as much; 1.05 is "
_ACCEPTANCE = "the practice of the field: 0.9 to 0.95 is healthy"
_NULL = (
    "quadratics: at 0.5 localization is as stiff as the loss, and halves the coefficient; at 0.9 nothing of it is left"
)
_SPREAD = "the practice of the field: chains that differ by more than 15 % are too few or too short"


def of_many(deviations: float, num: int) -> float:
    """Return what the largest of so many normal numbers exceeds as seldom as one alone exceeds a limit (Bonferroni)."""
    normal = NormalDist()
    return -normal.inv_cdf(normal.cdf(-deviations) / num)


LIMITS = {
    # Split R-hat of a mean loss.
    "rhat": Limit(warning=1.05, reject=1.1, source=_RHAT + _FITTED),
    # Share of token series with an R-hat above that at which chains have not mixed.
    "tokens": Limit(warning=0.1),
    # Spread of chains over the coefficient, where it is more than their own errors explain.
    "spread": Limit(warning=0.15, reject=0.5, source=f"{_SPREAD}; 0.5 {_FITTED}"),
    # How far the second half of the draws still moves, in standard errors; and as a share of the coefficient.
    "trend": Limit(warning=2.5, reject=3.5),
    "trend_share": Limit(warning=0.1, reject=0.25),
    # The coefficient over its standard error.
    "signal": Limit(warning=5.0, reject=2.0, below=True),
    # The error of the coefficient from one value of L(w0) over that of the paired one.
    "unpaired_error": Limit(note=2.0),
    # What minibatch noise adds to the variance of the weights, as a share.
    "noise": Limit(warning=0.1, reject=1.0),
    # The coefficient itself.
    "level": Limit(warning=0.0, below=True, source="at a minimum no coefficient is negative"),
    # Share of draws with a mean loss below that at w0 by more than four standard deviations of the noise of their minibatch.
    "negative_draws": Limit(warning=0.01, reject=0.05),
    # Highest loss less the median, in median absolute deviations.
    "spike": Limit(warning=10.0),
    # How much further that is than for a gamma law, which the rise of a loss has near a minimum.
    "spike_of_gamma": Limit(warning=2.0),
    # Temperature, where it differs from 1 by more than two standard errors.
    "cold": Limit(note=0.97, warning=0.7, reject=0.4, below=True),
    "hot": Limit(note=1.03, warning=1.1, reject=1.5),
    "parameter_hot": Limit(warning=1.5),
    # Steps over the relaxation time of the flattest direction.
    "relaxation": Limit(warning=3.0, below=True),
    # Step size times the localization: stable below 4, and variances are off by a third at 1.
    "lr_localization": Limit(warning=0.4, reject=2.0, source="1 / (1 - x / 4), the law of SGLD on a quadratic"),
    # Step size times second derivative, where the loss shows it.
    "step": Limit(note=0.2, warning=0.4, reject=2.0, source="1 / (1 - x / 4), the law of SGLD on a quadratic"),
    "low_acceptance": Limit(warning=0.9, reject=0.5, below=True, source=_ACCEPTANCE),
    "high_acceptance": Limit(note=0.999, source=_ACCEPTANCE),
    # Slope of the logarithm of the coefficient in that of localization.
    "prior": Limit(note=0.1, warning=0.25, reject=0.75),
    # Rise of the loss over that at `n_beta` 0.
    "null": Limit(note=0.25, warning=0.5, reject=0.9, source=_NULL),
    # Draws of a chain, and effective draws of all.
    "draws": Limit(
        warning=10.0, below=True, source="of fewer, Geyer's effective sample size does not depend on the data"
    ),
    "effective_draws": Limit(note=100.0, warning=20.0, below=True),
    # Share of the variance of a mean that chains have in common, which effective draws leave out.
    "common": Limit(note=0.25, source="beyond it, 95 % intervals that leave it out hold 91 % of the time or less"),
}
