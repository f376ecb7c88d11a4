"""Rows of a calibration's table: why a point fails, in a sentence, and what its runs say there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from devinterp.calibration.agreement import Comparison
from devinterp.calibration.grid import Planned
from devinterp.calibration.judged import Failure, Figures, Judged
from devinterp.calibration.result import Row

if TYPE_CHECKING:
    from devinterp.calibration.short_runs import ShortRuns

_STATIC = {
    "step_too_large": "the step times the largest second derivative of the potential is {value:.3g} (limit {limit:g})",
    "too_much_noise": "minibatch noise would add {value:.3g} of the variance of the weights (limit {limit:g})",
    "short_burnin": "flat directions need {value:.0f} steps of burn-in; the budget allows {limit:.0f}, and one of "
    "max_gradients={budget} this point",
}


def static_failure(planned: Planned, runs: ShortRuns) -> Failure | None:
    """Return why a point needs no run to be refused; None where it is to be run."""
    refusal = planned.refusal(runs.most_burnin_steps)
    if refusal is None:
        return None
    code, value, limit = refusal
    budget = runs.least_budget(planned.num_burnin_steps)
    return Failure(code, "reject", _STATIC[code].format(value=value, limit=limit, budget=budget), value, limit)


def row_of(
    planned: Planned, failure: Failure | None, judged: Sequence[Judged], *, outcome: str, num_gradients: int
) -> Row:
    """Return the row of a point: its code is that of the failure, where there is one."""
    point = planned.point
    figures = _figures_at(judged, failure)
    why: Mapping[str, Any] = (
        {}
        if failure is None
        else {
            "message": failure.message,
            "value": failure.value,
            "limit": failure.limit,
            "checkpoint": failure.checkpoint,
            "restriction": failure.restriction,
        }
    )
    return Row(
        kernel=point.kernel,
        lr=point.lr,
        n_beta=point.n_beta,
        localization=point.localization,
        batch_size=point.batch_size,
        step=planned.step,
        noise=planned.noise,
        relaxation=planned.relaxation,
        outcome=outcome if failure is None else failure.code,
        num_gradients=num_gradients,
        llc=figures.llc,
        llc_se=figures.llc_se,
        s_gamma=figures.s_gamma,
        s_gamma_se=figures.s_gamma_se,
        **why,
    )


def _figures_at(judged: Sequence[Judged], failure: Failure | None) -> Figures:
    """Return the figures of the checkpoint and restriction where a point failed, or of the first."""
    for one in judged:
        for restriction, each in one.figures.items():
            if failure is None or (one.checkpoint == failure.checkpoint and failure.restriction in ("", restriction)):
                return each
    return Figures(*[math.nan] * len(fields(Figures)))


def disagreement(compared: Comparison) -> Failure:
    """Return why a point fails whose coefficient differs from that at half its step, or is not known well enough to tell."""
    if not compared.is_precise:
        message = (
            f"the difference between this step and half of it is known to {compared.error:.2g} of the coefficient only: "
            "the budget allows no longer runs"
        )
        return Failure(
            "too_little_signal", "reject", message, compared.error, math.nan, compared.checkpoint, compared.restriction
        )
    message = (
        f"the coefficient differs by {compared.difference:.2g} of it from that at half the step "
        f"(allowed {compared.allowed:.2g})"
    )
    return Failure(
        "step_halving",
        "reject",
        message,
        abs(compared.difference),
        compared.allowed,
        compared.checkpoint,
        compared.restriction,
    )
