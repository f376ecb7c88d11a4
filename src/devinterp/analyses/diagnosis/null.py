"""Whether the loss shapes the posterior, or localization alone: the run beside its null, the same chains at ``n_beta`` zero."""

from __future__ import annotations

from collections.abc import Iterator

import xarray as xr

from devinterp.analyses.common.limits import LIMITS
from devinterp.analyses.common.run_data import use_chains
from devinterp.analyses.diagnosis.evidence import Evidence
from devinterp.analyses.diagnosis.series import Series, read_series
from devinterp.errors import BrokenChainsError, MissingDataError
from devinterp.schema import NULL, is_run
from devinterp.types import Check, Finding


def survives(evidence: Evidence) -> Iterator[Finding]:
    r"""Yield a finding for each mean loss that rises in the run nearly as far as it does at ``n_beta`` zero.

    On a quadratic the share is :math:`\gamma / (n\beta\, h + \gamma)`, averaged over directions by their second derivative h:
    near 0 the loss decides where chains go, at 1 localization does.
    """
    null = _null_series(evidence)
    for series in evidence.series:
        other = null.get(series.observable)
        if other is None:
            continue
        share, error = _ratio(series, other)
        message = f"{series.name} rises by {{value}} of what it rises at `n_beta` 0 (limit {{limit}})"
        yield from evidence.flag(
            share.where(share > 2 * error),
            LIMITS["null"],
            "survives_in_null",
            message,
            "lower `localization`, or raise `n_beta`",
            observable=series.observable,
        )


def _null_series(evidence: Evidence) -> dict[str, Series]:
    """Return the series of the null run by observable."""
    null = evidence.whole.children.get(NULL)
    if null is None or not is_run(null):
        raise MissingDataError("there is no null run: sample with `null=True`")
    try:
        run, _ = use_chains(null, "finished", needed_by="diagnose")
    except BrokenChainsError as error:
        raise MissingDataError("no chain of the null run has finished") from error
    return {each.observable: each for each in read_series(run, evidence.burnin)}


def _ratio(series: Series, null: Series) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the rise over that of the null, and its standard error; NaN where the loss of the null does not rise."""
    below = null.mean.where(null.mean > 2 * null.error)
    share = series.mean / below
    relative = (series.error / series.mean) ** 2 + (null.error / below) ** 2
    return share, abs(share) * relative**0.5


CHECKS = [
    Check("null", survives, {"survives_in_null": "the loss rises nearly as far without itself: localization decides"})
]
