"""How many effective draws a gradient buys with each kernel, at the best step whose bias is at most 2 %: docs/kernels.md."""

from __future__ import annotations

import pytest

from devinterp_bench.efficiency import compare
from devinterp_bench.efficiency_tables import comparison_rows
from devinterp_bench.known_targets import KNOWN_TARGETS, by_law, run_known

pytestmark = pytest.mark.benchmark

#: What the last kernel of a target, BAOAB or its preconditioned form, has to reach, relative to the first.
AT_LEAST = {
    "quadratic, condition 8": ("baoab friction=0.2", 7),
    "quadratic, condition 1000": ("baoab friction=0.2", 20),
    "quadratic, condition 1000, minibatch noise 0.02": ("baoab friction=0.2", 4),
    "reduced rank, n_beta 3000, localization 1": ("baoab friction=0.2", 10),
    "reduced rank, n_beta 10000, localization 10": ("baoab friction=0.2", 10),
    "quadratic, condition 1000, preconditioned": ("rmsprop_baoab friction=0.5", 5),
}


@pytest.mark.parametrize("name", AT_LEAST)
def test_effective_draws_for_each_gradient(name):
    make, cases = KNOWN_TARGETS[name]
    target, (kernel, least) = make(), AT_LEAST[name]
    jobs = [(case, step) for case in cases for step in case.steps]
    # As the command does it, so that chance does not decide which step is best.
    trials = [by_law(run_known(name, target, case, step), target.expected(case, step)) for case, step in jobs]
    compared = compare(trials, target.llc, target.llc_error)
    print(f"\n{name}", *(" | ".join(row) for row in comparison_rows(compared)), sep="\n")
    (ratio,) = (each.per_gradient for each in compared if each.kernel.startswith(kernel))
    assert ratio > least
