"""Whether localization decides the coefficient, and not the loss."""

from __future__ import annotations

from collections.abc import Iterator

from devinterp.analyses.common.limits import LIMITS, Limit
from devinterp.analyses.diagnosis.evidence import Evidence
from devinterp.analyses.sensitivity import SENSITIVITY_REQUIRES
from devinterp.errors import MissingDataError
from devinterp.types import Check, Finding

#: A slope whose error is larger than the slope can be says nothing: its noise is that of the many weights that are flat.
_NO_INFORMATION = 1.0


def prior_dominated(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding for each coefficient that depends on localization."""
    result = evidence.sensitivity
    if "s_gamma" not in result:
        raise MissingDataError("the losses of rows at w0 are not stored")
    message = (
        "the coefficient falls like localization to the power {value} (limit {limit}): it measures that, not the loss"
    )
    advice = "lower `localization`, or raise `n_beta`"
    slope, error, limit = -result["s_gamma"], result["s_gamma_se"], LIMITS["prior"]
    is_known = error <= _NO_INFORMATION
    yield from evidence.flag(slope.where(is_known & (slope > 2 * error)), limit, "prior_dominated", message, advice)
    if not bool(is_known.any()):
        raise MissingDataError(
            f"the slope is known to ± {float(error.min()):.2g} only, and lies between 0 and 1 on most losses"
        )
    # Where its error hides whether localization decides all, that is worth a warning and no more.
    is_unclear = is_known & (slope <= 2 * error)
    unclear = Limit(warning=limit.reject, source=limit.source)
    message = (
        "the coefficient may fall like localization to the power {value} (limit {limit}), but the error is as large"
    )
    yield from evidence.flag(slope.where(is_unclear), unclear, "prior_dominated", message, advice)


CHECKS = [
    Check(
        "prior_dominated",
        prior_dominated,
        {"prior_dominated": "localization decides the coefficient"},
        SENSITIVITY_REQUIRES,
    )
]
