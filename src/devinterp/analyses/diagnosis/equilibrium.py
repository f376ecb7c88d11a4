"""Whether chains are at their temperature: the virial, and where it is not recorded the relaxation time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from devinterp import schema
from devinterp.analyses.common.limits import LIMITS
from devinterp.analyses.common.mean_error import half_width
from devinterp.analyses.diagnosis.evidence import Evidence
from devinterp.analyses.diagnosis.series import num_steps
from devinterp.analyses.temperature import TEMPERATURE_REQUIRES, WINDOW
from devinterp.errors import MissingDataError
from devinterp.schema import DIRECTION, DIRECTION_CURVATURE, PARAMETER, RESTRICTION
from devinterp.types import Check, Finding

_SMALLER = "take smaller steps (`lr`) or larger minibatches"
_LONGER = "burn in longer, or raise `lr` or `localization`, so that flat directions are filled sooner"


def _expected(evidence: Evidence) -> float:
    expected = float(evidence.temperature.attrs["expected"])
    if expected == 0:
        raise MissingDataError("with `noise_level` 0 there is no temperature")
    return expected


def temperature(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding where weights have less, or more, than the temperature of the posterior."""
    result, expected = evidence.temperature, _expected(evidence)
    value, error = result["temperature"] / expected, result["temperature_se"] / expected
    margin = error * half_width(result["temperature_se"].attrs.get("degrees_of_freedom", np.inf))
    for code, certain, advice in (
        ("cold", value + margin < 1, _LONGER),
        ("hot", value - margin > 1, _SMALLER),
    ):
        message = f"the temperature is {{value}}, {code}: it should be 1 (limit {{limit}})"
        yield from evidence.flag(value.where(certain), LIMITS[code], code, message, advice)


def parameters(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding for each restriction with a parameter tensor that is much too hot, where stiff directions are."""
    names = evidence.temperature[PARAMETER].to_numpy()
    yield from _hottest(evidence, "parameter", PARAMETER, lambda _, number: str(names[number]))


def directions(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding for each restriction with a stiff direction that is much too hot."""
    if "direction_temperature" not in evidence.temperature:
        raise MissingDataError("the run was not sampled with `curvature_directions`")
    curvatures = evidence.temperature[DIRECTION_CURVATURE].transpose(RESTRICTION, ...).to_numpy()
    yield from _hottest(
        evidence, "direction", DIRECTION, lambda r, n: f"a direction of second derivative {curvatures[r, n]:.3g}"
    )


def _hottest(evidence: Evidence, what: str, dim: str, named: Callable[[int, int], str]) -> Iterator[Finding]:
    result, expected = evidence.temperature, _expected(evidence)
    value, error = result[f"{what}_temperature"] / expected, result[f"{what}_temperature_se"] / expected
    certain = value.where(value - 4 * error > 1).transpose(RESTRICTION, dim)
    for number, restriction in enumerate(evidence.names):
        row = certain[number].to_numpy()
        if np.isnan(row).all():
            continue
        hottest = int(np.nanargmax(row))
        judged = LIMITS["parameter_hot"].judge(float(row[hottest]))
        if judged is not None:
            severity, limit = judged
            yield Finding(
                code="hot",
                severity=severity,
                message=f"the temperature of {named(number, hottest)} is {row[hottest]:.3g} (limit {limit:g})",
                advice=_SMALLER,
                value=float(row[hottest]),
                limit=limit,
                restriction=restriction,
            )


def warming_up(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding where the first draws are colder than the last ones: they belong to the burn-in."""
    result = evidence.temperature
    if result.sizes[WINDOW] < 2:
        raise MissingDataError("there are too few draws")
    value, error = result["window_temperature"], result["window_temperature_se"]
    first, last = (value.isel({WINDOW: n}) for n in (0, -1))
    uncertainty = (error.isel({WINDOW: 0}) ** 2 + error.isel({WINDOW: -1}) ** 2) ** 0.5
    is_colder = last - first > 3 * uncertainty
    message = "the first draws have {value} of the temperature of the last ones (limit {limit})"
    yield from evidence.flag((first / last).where(is_colder), LIMITS["cold"], "short_burnin", message, _LONGER)


def relaxation(evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding where burn-in is short against the relaxation time 2 / (lr localization), and no virial shows more."""
    if not schema.missing(evidence.run, TEMPERATURE_REQUIRES):
        return
    if not evidence.localization:
        raise MissingDataError("without `localization` the relaxation time is not known")
    times = evidence.step_of_sgld * evidence.localization / 2
    for name, steps in (("burn-in", evidence.burnin), ("the run", num_steps(evidence.run))):
        judged = LIMITS["relaxation"].judge(steps * times)
        if judged is not None:
            yield Finding(
                code="short_burnin",
                severity=judged[0],
                message=f"{name} is {steps * times:.2g} relaxation times of flat directions long (limit {judged[1]:g})",
                advice=_LONGER,
                value=steps * times,
                limit=judged[1],
            )


CHECKS = [
    Check(
        "temperature",
        temperature,
        {"cold": "weights have not gone as far as they will", "hot": "weights go too far"},
        TEMPERATURE_REQUIRES,
    ),
    Check("parameters", parameters, {"hot": "the weights of a tensor go too far"}, TEMPERATURE_REQUIRES),
    Check("directions", directions, {"hot": "weights go too far along a stiff direction"}, TEMPERATURE_REQUIRES),
    Check("warming_up", warming_up, {"short_burnin": "the first draws belong to the burn-in"}, TEMPERATURE_REQUIRES),
    Check("relaxation", relaxation, {"short_burnin": "burn-in is short against the relaxation time"}),
]
