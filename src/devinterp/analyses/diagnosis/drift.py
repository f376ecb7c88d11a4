"""Whether the loss still moves in one direction after burn-in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import xarray as xr

from devinterp.analyses.common.limits import LIMITS, of_many
from devinterp.analyses.common.mean_error import mean_error
from devinterp.analyses.diagnosis.evidence import Evidence
from devinterp.analyses.diagnosis.series import Series
from devinterp.analyses.llc.errors import widened
from devinterp.errors import MissingDataError
from devinterp.schema import DRAW
from devinterp.types import Check, Finding

#: Fewer draws than this have no quarters whose errors could be told.
_LEAST = 16


def drift(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding for each mean loss that moves, by more than chance and more than matters, over the second half."""
    if evidence.series[0].rise.sizes[DRAW] < _LEAST and len(evidence.series) < 2:
        raise MissingDataError(f"there are fewer than {_LEAST} draws")
    long_enough = [series for series in evidence.series if series.rise.sizes[DRAW] >= _LEAST]
    num_trends = len(long_enough) * len(evidence.names)
    for series in long_enough:
        change, deviations = _trend(series)
        share = abs(change) / abs(series.mean).where(series.mean != 0)
        for number, name in enumerate(evidence.names):
            judged = _judge(float(deviations[number]), float(share[number]), num_trends)
            if judged is None:
                continue
            severity, limit = judged
            yield Finding(
                code="drift",
                severity=severity,
                message=f"{series.name} moves by {float(share[number]):.2g} of its rise over the second half of the draws, "
                f"{float(deviations[number]):.2g} standard errors (limit {limit:.3g})",
                advice="burn in longer; if it goes on rising, raise `localization` or lower `n_beta`",
                value=float(deviations[number]),
                limit=limit,
                restriction=name,
                observable=series.observable,
            )


def _trend(series: Series) -> tuple[xr.DataArray, xr.DataArray]:
    """Return last quarter less third quarter, and that in standard errors."""
    num = series.rise.sizes[DRAW]
    quarters = [
        series.rise.isel({DRAW: slice(num // 2, 3 * num // 4)}),
        series.rise.isel({DRAW: slice(3 * num // 4, None)}),
    ]
    means = [quarter.mean([dim for dim in quarter.dims if dim != series.mean.dims[0]]) for quarter in quarters]
    errors = [widened(mean_error(quarter, shared=series.is_shared)) for quarter in quarters]
    change = means[1] - means[0]
    error = (errors[0] ** 2 + errors[1] ** 2) ** 0.5
    return change, abs(change) / error.where(error > 0)


def _judge(deviations: float, share: float, num_trends: int) -> tuple[str, float] | None:
    """Return the milder of two judgements: a trend must be certain, and must matter.

    Of many trends some are beyond the limit of one by chance, and a limit further out is for the largest of them (Bonferroni).
    """
    if np.isnan(deviations):
        return None
    limit = LIMITS["trend"]
    limit = replace(limit, warning=of_many(limit.warning, num_trends), reject=of_many(limit.reject, num_trends))
    judged = [limit.judge(deviations), LIMITS["trend_share"].judge(share)]
    if judged[0] is None or judged[1] is None:
        return None
    return (
        ("reject" if judged[1][0] == "reject" else "warning", judged[0][1]) if judged[0][0] == "reject" else judged[0]
    )


CHECKS = [Check("drift", drift, {"drift": "the loss still moves in one direction"})]
