"""Whether steps are too large or too small, and the noise of minibatches too large."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.limits import LIMITS
from devinterp.analyses.common.run_data import draws_after, steps_after
from devinterp.analyses.diagnosis.evidence import Evidence
from devinterp.analyses.diagnosis.series import num_steps
from devinterp.errors import MissingDataError
from devinterp.schema import CHAIN, DRAW, METRICS, RESTRICTION, STEP
from devinterp.types import Check, Finding

_SMALLER = "take smaller steps (`lr`), or use a kernel without bias of the step size, such as 'baoab'"


def localization(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding where steps are too large for localization alone."""
    judged = LIMITS["lr_localization"].judge(evidence.step_of_sgld * evidence.localization)
    if judged is not None:
        value = evidence.step_of_sgld * evidence.localization
        yield Finding(
            code="step_too_large",
            severity=judged[0],
            message=f"lr times localization is {value:.3g} (limit {judged[1]:g})",
            advice=_SMALLER,
            value=value,
            limit=judged[1],
        )


def seen_in_the_loss(evidence: Evidence) -> Iterator[Finding]:
    r"""Yield a finding where the loss forgets so fast that steps must be large against its curvature.

    Around a minimum the loss of SGLD has autocovariances that fall by :math:`(1 - x/2)^2` from step to step, x being step size
    times curvature, averaged over the directions that make the loss; white noise of minibatches falls out of the ratio of the
    second to the first.
    """
    evidence.step_of_sgld  # noqa: B018  # raises for a kernel whose law is another
    series = evidence.series[0]
    _check_noise(evidence)
    num = series.rise.sizes[DRAW]
    if num != num_steps(evidence.run) - evidence.burnin or num < 100:
        raise MissingDataError("fewer than 100 consecutive steps are stored")
    rise = series.rise.transpose(RESTRICTION, CHAIN, DRAW).to_numpy()
    centred = rise - rise.mean((1, 2), keepdims=True)
    first, second = ((centred[..., lag:] * centred[..., :-lag]).mean((1, 2)) for lag in (1, 2))
    total = (centred**2).mean((1, 2))
    # The ratio of two estimates that are both near zero says nothing.
    is_known = first > 5 * total / np.sqrt(rise.shape[1] * num)
    ratio = np.where(is_known, second / np.where(is_known, first, 1), np.nan)
    values = xr.DataArray(2 * (1 - np.sqrt(np.clip(ratio, 0, 1))), dims=[RESTRICTION])
    message = (
        "step size times the curvature that makes the loss is about {value} (limit {limit}), from how fast it forgets"
    )
    yield from evidence.flag(values, LIMITS["step"], "step_too_large", message, _SMALLER)


def _check_noise(evidence: Evidence) -> None:
    """Raise where minibatches, which are replayed every epoch, decide how the loss moves from step to step."""
    at_draws = evidence.at_draws
    noise = np.nan if at_draws is None else float(at_draws.noise.mean())
    if not noise < 0.05 * float(evidence.series[0].rise.var()):
        raise MissingDataError("the noise of minibatches is not known, or hides how fast the loss forgets")


def acceptance(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding where a Metropolis test would refuse many steps, or nearly none."""
    values = evidence.run[f"{METRICS}/{schema.MALA_ACCEPTANCE}"].isel(
        {STEP: steps_after(evidence.run, evidence.burnin)}
    )
    mean = values.astype(np.float64).mean([CHAIN, STEP]).compute()
    message = "a Metropolis test would accept {value} of the steps (limit {limit})"
    yield from evidence.flag(mean, LIMITS["low_acceptance"], "step_too_large", message, _SMALLER)
    advice = "larger steps (`lr`) would give more effective draws"
    yield from evidence.flag(mean, LIMITS["high_acceptance"], "step_needlessly_small", message, advice)


def minibatch_noise(evidence: Evidence) -> Iterator[Finding]:
    r"""Yield a finding where the noise of minibatch gradients heats the weights.

    With d the way from w0, g the minibatch gradient and r the rise of its loss, :math:`d \cdot g - 2 k r` is noise of the
    minibatch and nothing else where the loss is homogeneous of degree 2k; its variance over :math:`|d|^2` is that of a
    coordinate of the gradient.
    """
    lr = float(evidence.settings.get("lr", np.nan)) * evidence.noise_factor
    at_draws, kept = evidence.at_draws, draws_after(evidence.run, evidence.burnin)
    if at_draws is None:
        raise MissingDataError("the losses of rows at w0 are not stored")
    if at_draws.replayed >= 0.5:
        return  # every step has the same rows, whose gradient has no noise
    metrics = evidence.run[METRICS].to_dataset()[[schema.VIRIAL_GRADIENT, schema.VIRIAL_SQUARE]]
    metrics = metrics.isel({DRAW: kept}).drop_vars(DRAW, errors="ignore").compute().astype(np.float64)
    slope, rise, over = metrics[schema.VIRIAL_GRADIENT], at_draws.rise, [CHAIN, DRAW]
    rest = slope - slope.mean(over) / rise.mean(over) * rise
    variance = rest.var(over) / metrics[schema.VIRIAL_SQUARE].mean(over)
    heat = lr / 4 * evidence.n_beta**2 * variance
    message = "minibatch noise adds {value} of the variance of the weights (limit {limit})"
    advice = "take smaller steps (`lr`) or larger minibatches, or lower `n_beta`"
    yield from evidence.flag(heat, LIMITS["noise"], "too_much_noise", message, advice)


CHECKS = [
    Check("localization", localization, {"step_too_large": "steps are too large for localization"}),
    Check("seen_in_the_loss", seen_in_the_loss, {"step_too_large": "steps are too large for the loss"}),
    Check(
        "acceptance",
        acceptance,
        {
            "step_too_large": "a Metropolis test would refuse steps",
            "step_needlessly_small": "steps could be larger",
        },
        requires=(f"{METRICS}/{schema.MALA_ACCEPTANCE}",),
    ),
    Check(
        "minibatch_noise",
        minibatch_noise,
        {"too_much_noise": "gradient noise heats the weights"},
        requires=(f"{METRICS}/{schema.VIRIAL_GRADIENT}", "trace/row_loss"),
    ),
]
