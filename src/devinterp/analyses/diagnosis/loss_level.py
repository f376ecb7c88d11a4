"""Whether the loss lies where it should: above that at w0, and without spikes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr

from devinterp.analyses.common.limits import LIMITS
from devinterp.analyses.diagnosis.evidence import Evidence
from devinterp.analyses.diagnosis.series import quantile_of_gamma
from devinterp.errors import MissingDataError
from devinterp.schema import CHAIN, DRAW, RESTRICTION
from devinterp.types import Check, Finding

_NOT_A_MINIMUM = (
    "w0 is no minimum of this loss (check the data and the loss), or `localization` is too small to keep chains near it"
)


def decreased(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding for each mean loss that is below that at w0."""
    for series in evidence.series:
        error = series.error.where(series.error.notnull(), 0)
        for number, name in enumerate(evidence.names):
            mean, margin = float(series.mean[number]), 2 * float(error[number])
            if mean < 0:
                yield Finding(
                    code="loss_decreased",
                    severity="reject" if mean + margin < 0 else "warning",
                    message=f"{series.name} is lower than at w0: the coefficient is {evidence.n_beta * mean:.3g} "
                    f"± {evidence.n_beta * margin:.2g}",
                    advice=_NOT_A_MINIMUM,
                    value=evidence.n_beta * mean,
                    limit=0.0,
                    restriction=name,
                    observable=series.observable,
                )


def negative_draws(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding where many draws have a loss below that at w0, by more than the noise of their minibatch."""
    at_draws = evidence.at_draws
    if at_draws is None:
        raise MissingDataError("the losses of rows at w0 are not stored")
    noise = at_draws.noise
    if noise.isnull().any():
        raise MissingDataError("the noise of minibatches is not known")
    # That of all draws together: of a few rows a single estimate is as uncertain as it is large.
    below = at_draws.rise + 4 * noise.mean([dim for dim in (CHAIN, DRAW) if dim in noise.dims]) ** 0.5 < 0
    yield from evidence.flag(
        below.mean([CHAIN, DRAW]),
        LIMITS["negative_draws"],
        "loss_decreased",
        "the loss of {value} of the draws is clearly below that at w0 (limit {limit})",
        _NOT_A_MINIMUM,
    )


def spiky(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding for each chain whose loss has spikes: far above its median, and further than a gamma law has it."""
    for series in evidence.series:
        rise = series.rise.transpose(RESTRICTION, CHAIN, DRAW)
        median = rise.median(DRAW)
        deviation = abs(rise - median).median(DRAW)
        height = rise.max(DRAW) - median
        # Near a minimum n_beta times the rise has a gamma law; minibatch noise is added to it.
        shape = np.maximum(evidence.n_beta * series.mean.to_numpy(), 1e-3)
        extreme = (quantile_of_gamma(shape, 4.0) - shape) / max(evidence.n_beta, 1e-30)
        usual = xr.DataArray(extreme, dims=series.mean.dims) + 4 * 1.4826 * deviation
        is_far = height > LIMITS["spike_of_gamma"].warning * usual
        message = f"{series.name} has a spike of {{value}} median absolute deviations (limit {{limit}})"
        yield from evidence.flag(
            (height / deviation.where(deviation > 0)).where(is_far),
            LIMITS["spike"],
            "spiky",
            message,
            "take smaller steps (`lr`)",
            observable=series.observable,
        )


CHECKS = [
    Check("decreased", decreased, {"loss_decreased": "the loss is below that at w0"}),
    Check(
        "negative_draws",
        negative_draws,
        {"loss_decreased": "many draws are below the loss at w0"},
        requires=("trace/row_loss",),
    ),
    Check("spiky", spiky, {"spiky": "the loss has spikes"}),
]
