"""Whether localization decides the coefficient, and not the loss."""

from __future__ import annotations

from collections.abc import Iterator

from devinterp.analyses.common.limits import LIMITS
from devinterp.analyses.diagnosis.evidence import Evidence
from devinterp.analyses.sensitivity import SENSITIVITY_REQUIRES
from devinterp.errors import MissingDataError
from devinterp.types import Check, Finding


def prior_dominated(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding for each coefficient that depends on localization."""
    result = evidence.sensitivity
    if "s_gamma" not in result:
        raise MissingDataError("the losses of rows at w0 are not stored")
    message = (
        "the coefficient falls like localization to the power {value} (limit {limit}): it measures that, not the loss"
    )
    advice = "lower `localization`, or raise `n_beta`"
    slope, error = -result["s_gamma"], result["s_gamma_se"]
    yield from evidence.flag(slope.where(slope > 2 * error), LIMITS["prior"], "prior_dominated", message, advice)


CHECKS = [
    Check(
        "prior_dominated",
        prior_dominated,
        {"prior_dominated": "localization decides the coefficient"},
        SENSITIVITY_REQUIRES,
    )
]
