"""Whether the coefficient can be told from zero, and how many draws it is made of."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from devinterp.analyses.common.limits import LIMITS, of_many
from devinterp.analyses.common.mean_error import mean_error
from devinterp.analyses.diagnosis.evidence import Evidence
from devinterp.analyses.diagnosis.series import quantile_of_gamma
from devinterp.analyses.llc import compute_llc
from devinterp.errors import MissingDataError
from devinterp.schema import CHAIN, DRAW, RESTRICTION
from devinterp.types import Check, Finding

#: Normal deviations that chance exceeds once in a hundred: so often a run may be said to have too few draws and has enough.
_SURE = 2.3263


def signal(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding for each coefficient that is not several times its standard error."""
    for series in evidence.series:
        ratio = series.mean / series.error.where(series.error > 0)
        message = f"the coefficient of {series.name} is {{value}} of its standard errors (limit {{limit}})"
        advice = "take more draws, raise `n_beta` or the batch size, and store losses at w0 (`paired=True`)"
        yield from evidence.flag(
            ratio, LIMITS["signal"], "too_little_signal", message, advice, observable=series.observable
        )


def unpaired(evidence: Evidence) -> Iterator[Finding]:
    """Yield a note where the coefficient from one value of L(w0) is much less certain than the paired one."""
    if not evidence.series[0].is_paired:
        raise MissingDataError("the losses of rows at w0 are not stored")
    llc = compute_llc(evidence.run, burnin=evidence.burnin)[["llc_se", "paired_llc_se"]].compute()
    ratio = llc["llc_se"] / llc["paired_llc_se"].where(llc["paired_llc_se"] > 0)
    yield from evidence.flag(
        ratio if RESTRICTION in ratio.dims else ratio.expand_dims(RESTRICTION),
        LIMITS["unpaired_error"],
        "too_much_noise",
        "the error of `llc_mean` is {value} times that of `paired_llc_mean` (limit {limit}): the choice of data decides it",
        "use `paired_llc_mean`",
    )


def few_draws(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding where there are few draws, in number or in effect, or only one chain."""
    if evidence.num_chains == 1:
        yield Finding(
            "few_draws",
            "note",
            "there is one chain: nothing tells whether another would be elsewhere",
            "sample at least two chains, better four",
            value=1.0,
            limit=2.0,
        )
    for series in evidence.series:
        num = series.rise.sizes[DRAW]
        if (judged := LIMITS["draws"].judge(num)) is not None:
            severity, limit = judged
            yield Finding(
                "few_draws",
                severity,
                f"chains have {num} draws of {series.name} (limit {limit:g}): there is no effective sample size",
                "take more draws",
                value=float(num),
                limit=limit,
                observable=series.observable,
            )
            continue
        message = f"there are {{value}} effective draws of {series.name} (limit {{limit}})"
        advice = "take more draws, or draws further apart (`num_steps_bw_draws`); a kernel with momentum moves faster"
        ess = series.convergence["ess"]
        # Fast noise hides how slowly chains move: the error from slow movements says it, too, as far as it is known.
        error = mean_error(series.rise, shared=series.is_shared)
        spread = series.rise.std([CHAIN, DRAW]) / error
        slow = spread**2 * _most(error.attrs["degrees_of_freedom"], len(evidence.series) * len(evidence.names))
        slow = slow.where(slow.notnull(), ess)
        effective = ess.where(ess < slow, slow)
        yield from evidence.flag(
            effective, LIMITS["effective_draws"], "few_draws", message, advice, observable=series.observable
        )


def _most(degrees_of_freedom: int, num: int) -> float:
    """Return by how much squared errors of so many series may be too large: 99 of 100 times it is less (Bonferroni)."""
    if not degrees_of_freedom:
        return math.nan
    shape = degrees_of_freedom / 2
    return float(quantile_of_gamma(np.array(shape), of_many(_SURE, num))) / shape


CHECKS = [
    Check("signal", signal, {"too_little_signal": "the coefficient is not many times its error"}),
    Check("unpaired", unpaired, {"too_much_noise": "the noise of the data, or that of gradients, is too large"}),
    Check("few_draws", few_draws, {"few_draws": "few draws, few effective draws, or one chain"}),
]
