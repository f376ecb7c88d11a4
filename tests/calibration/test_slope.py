"""How a coefficient falls with localization, from runs at two localizations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from devinterp.calibration.grid import STRONGER
from devinterp.calibration.judged import Figures, Judged
from devinterp.calibration.slope import MOST_ERROR, worst_slope


def judged(*coefficients: tuple[float, float], slope: tuple[float, float] = (math.nan, math.nan)) -> tuple[Judged, ...]:
    """Return the runs of one checkpoint, a restriction for each coefficient and its error."""
    figures = {f"r{number}": Figures(llc, error, 1.0, *slope, 1.0) for number, (llc, error) in enumerate(coefficients)}
    return (Judged("step1", 10, 100, 100, 400, "ok", (), figures),)


def test_of_a_power_law_it_is_the_power() -> None:
    power = 0.7
    slope = worst_slope([judged((100.0, 1.0))], judged((100.0 * STRONGER**-power, 1.0)))
    np.testing.assert_allclose(slope.value, power)
    np.testing.assert_allclose(slope.error, math.hypot(0.01, 0.01 * STRONGER**power) / math.log(STRONGER))
    assert (slope.checkpoint, slope.restriction) == ("step1", "r0")


def test_its_error_holds() -> None:
    rng, power, hits = np.random.default_rng(0), 0.4, []
    for _ in range(2000):
        at_step, at_half = (float(each) for each in rng.normal(100, [4, 8]))
        strong = float(rng.normal(100 * STRONGER**-power, 5))
        slope = worst_slope([judged((at_step, 4.0)), judged((at_half, 8.0))], judged((strong, 5.0)))
        hits.append(abs(slope.value - power) < 1.96 * slope.error)
    assert abs(np.mean(hits) - 0.95) < 4 * math.sqrt(0.05 * 0.95 / 2000)


def test_the_largest_counts_and_before_it_one_that_is_not_known() -> None:
    weak, strong = judged((100.0, 1.0), (100.0, 1.0)), judged((90.0, 1.0), (60.0, 1.0))
    assert worst_slope([weak], strong).restriction == "r1"
    unknown = worst_slope([judged((100.0, 1.0), (100.0, 1.0))], judged((90.0, 40.0), (60.0, 1.0)))
    assert unknown.restriction == "r0"
    assert not unknown.is_precise
    failure = unknown.failure(10.0, 0.25)
    assert failure is not None
    assert (failure.code, failure.limit) == ("too_little_signal", MOST_ERROR)


def test_one_run_is_believed_where_it_says_more() -> None:
    weak = judged((100.0, 10.0), slope=(-0.3, 0.02))
    assert worst_slope([weak], judged((100.0, 10.0))).value == 0.3


@pytest.mark.parametrize("llc", [0.0, -3.0])
def test_of_a_coefficient_that_is_not_positive_nothing_is_known(llc: float) -> None:
    assert not worst_slope([judged((100.0, 1.0))], judged((llc, 1.0))).is_precise


def test_more_than_is_allowed_is_refused_with_the_figure() -> None:
    slope = worst_slope([judged((100.0, 1.0))], judged((60.0, 1.0)))
    assert slope.failure(20.0, 0.75) is None
    failure = slope.failure(20.0, 0.25)
    assert failure is not None
    assert (failure.code, failure.limit, failure.restriction) == ("prior_dominated", 0.25, "r0")
    assert "between localization 20 and 40" in failure.message
    assert "0.74" in failure.message
