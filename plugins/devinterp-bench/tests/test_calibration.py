"""Calibration recommends settings whose real run is good, on problems whose learning coefficients are known."""

from __future__ import annotations

import pytest

import devinterp
from devinterp_bench.problems import Problem, deep_linear, linear_regression, nonlinear_regressions, powers

PROBLEMS = [
    linear_regression(4, 5.0),
    *nonlinear_regressions(),
    powers((2,), multiply=False),
    powers((1, 2), multiply=False),
    deep_linear((4, 3, 4), 1),
    deep_linear((2, 2, 6), 1),
]


@pytest.mark.slow
@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_the_run_that_is_recommended_is_good(problem: Problem) -> None:
    model = problem.model()
    data = problem.data(model)
    calibration = devinterp.calibrate(
        model, data, n_beta=problem.n_beta, loss_fn=problem.loss_fn, batch_size=len(data[0]), progress=False
    )
    tree = devinterp.sample(model, data, loss_fn=problem.loss_fn, progress=False, **calibration.settings)
    diagnosis = tree.slt.diagnose()
    assert diagnosis.attrs["verdict"] in ("ok", "note"), diagnosis["message"].to_numpy()
    llc, truth = tree.slt.llc(), float(problem.truth.value)
    off = abs(float(llc["paired_llc_mean"]) - truth)
    assert off <= max(0.1 * truth, 3 * float(llc["paired_llc_se"]))
