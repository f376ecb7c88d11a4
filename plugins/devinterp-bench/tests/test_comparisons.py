"""Order, sensitivity, coverage and efficiency: each figure against a case in which it is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from devinterp.cli import run as devinterp
from devinterp_bench import efficiency, language_models, sections
from devinterp_bench.coverage import LRS, NoisyProblem, coverage, coverage_rows
from devinterp_bench.efficiency import Case, Trial, compare, effective_draws, trial_from_json
from devinterp_bench.known_targets import NUM_CHAINS, quadratic, run_known
from devinterp_bench.language_models import LanguageProblem, run_trial
from devinterp_bench.measure import Effort, measure
from devinterp_bench.order import Order, order_of
from devinterp_bench.problems import Linear, linear_regression
from devinterp_bench.sensitivity import VARIANTS, Variant, sensitivity, sensitivity_rows, vary
from devinterp_bench.summary import to_json

NAN = float("nan")


def test_pairs_that_could_be_swapped():
    """1 and 2 are close, their errors being 0.3 and 0.8; 1.95 and 2 are nearer than the stated errors; 30 is far away."""
    truths, estimates = [1.0, 2.0, 1.95, 30.0], [1.3, 1.2, 1.95, 30.0]
    assert order_of(truths, estimates, [0.05] * 4) == Order(pairs=5, in_order=4, close=1, close_in_order=0)
    assert order_of([1.0, 1.0], [1.1, 0.9], [0.0, 0.0]) == Order(0, 0, 0, 0)


def test_a_missing_estimate_is_out_of_order():
    assert order_of([1.0, 2.0], [1.0, NAN], [0.1, NAN]) == Order(pairs=1, in_order=0, close=1, close_in_order=0)


@pytest.mark.parametrize(("chains", "draws"), [(2, 40_000), (64, 1250)])
def test_effective_draws_of_an_autoregression(chains, draws):
    """Autocorrelation r: (1 - r) / (1 + r) effective draws for each, whether blocks are of time or of chains."""
    r, generator = 0.8, np.random.default_rng(chains)
    noise = generator.standard_normal((chains, draws)) * math.sqrt(1 - r * r)
    series = np.empty_like(noise)
    series[:, 0] = generator.standard_normal(chains)
    for n in range(1, draws):
        series[:, n] = r * series[:, n - 1] + noise[:, n]
    value, error = effective_draws(series)
    assert abs(value - (1 - r) / (1 + r)) < 4 * error
    assert 0.002 < error < 0.02


def trial(kernel: str, step: float, estimate: float, draws: float, seconds: float = 1.0) -> Trial:
    return Trial("p", kernel, step, estimate, 0.01, draws, 0.1 * draws, seconds, 100)


def test_the_fastest_trial_within_the_bias_counts():
    trials = [
        trial("sgld", 0.1, 10.1, 0.01),
        trial("sgld", 0.2, 10.3, 0.05),  # too large a bias
        trial("fast", 0.1, 9.9, 0.1, seconds=2.0),
        trial("fast", 0.2, 10.15, 0.2, seconds=2.0),
        trial("fast", 0.4, NAN, NAN),
        trial("bad", 0.1, 12.0, 0.5),
    ]
    sgld, fast, bad = compare(trials, 10.0, 0.02)
    assert (sgld.best.step, sgld.per_gradient, sgld.per_gradient_error) == (0.1, 1.0, 0.0)
    assert fast.best.step == 0.2
    assert fast.per_gradient == pytest.approx(20)
    assert fast.per_gradient_error == pytest.approx(20 * math.hypot(0.1, 0.1))
    assert fast.per_second == pytest.approx(10)
    assert fast.bias_error == pytest.approx(math.hypot(0.01, 0.02) / 10)
    assert bad.best is None
    assert [trial_from_json(each) for each in to_json(trials[:2])] == trials[:2]


@pytest.mark.parametrize(
    ("kernel", "options", "noise"),
    [
        ("sgld", {}, 0.0),
        ("sgld", {}, 0.2),
        ("leimkuhler_matthews", {}, 0.2),
        ("baoab", {"friction": 0.5}, 0.2),
        ("sghmc", {"friction": 0.3}, 0.2),
    ],
)
def test_trials_on_a_quadratic_follow_the_law_of_the_kernel(kernel, options, noise):
    target, case = quadratic(8, 3000.0, 500, noise), Case(kernel, options, (0.5,))
    measured, law = run_known("q", target, case, 0.5), target.expected(case, 0.5)
    assert abs(measured.estimate - law) < 4 * measured.error
    assert kernel == "leimkuhler_matthews" or law - target.llc > 2 * measured.error or not noise
    assert measured.num_gradients == NUM_CHAINS * 500
    assert 0.01 < measured.draws_per_gradient < 0.5
    assert math.isnan(target.expected(Case("sgnht", {}, (0.5,)), 0.5))


def test_the_command_prints_ratios_and_measures_nothing_twice(tmp_path, monkeypatch, capsys):
    cases = (Case("sgld", {}, (0.05, 3.9)), Case("baoab", {"friction": 0.5}, (2.0,)))
    made = {"small quadratic": (lambda: quadratic(8, 3000.0, 500), cases)}
    monkeypatch.setattr(sections, "KNOWN_TARGETS", made)
    monkeypatch.setattr(efficiency, "MOST_BIAS", 0.1)  # so few draws do not determine 2 %
    output, table = tmp_path / "trials.json", tmp_path / "table.md"
    assert devinterp(["bench", "efficiency", "-o", str(output), "--table", str(table)]) == 0
    trials = json.loads(output.read_text())["trials"]
    assert len(trials) == 3
    (row,) = [line for line in table.read_text().splitlines() if line.startswith("| baoab")]
    assert float(row.split("|")[5].split("±")[0]) > 4
    monkeypatch.setattr(sections, "run_known", None)  # anything that is still measured would call it
    assert devinterp(["bench", "efficiency", "-o", str(output)]) == 0
    assert json.loads(output.read_text())["trials"] == trials
    assert devinterp(["bench", "efficiency", "--problem", "nothing"]) == 2
    assert "is in no name. Known:\n  small quadratic" in capsys.readouterr().err


class Bigram(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(6, 6)
        torch.nn.init.zeros_(self.table.weight)

    def forward(self, ids):
        return self.table(ids)


def bigram_problem() -> LanguageProblem:
    data = torch.randint(6, (64, 12), generator=torch.Generator().manual_seed(0))
    return LanguageProblem(
        name="bigrams", load=lambda: (Bigram().eval(), data), batch_size=8, n_beta=50.0, localization=20.0,
        restriction=None, num_burnin_steps=20, num_draws=60,
        reference=Case("baoab", {"friction": 0.2}, (2e-3,), num_draws=100),
        cases=(Case("sgld", {}, (5e-3,), spacing=2), Case("baoab", {"friction": 0.2}, (5e-3,))),
    )  # fmt: skip


@pytest.mark.heavy
def test_language_models_are_compared_with_their_own_reference(tmp_path, monkeypatch):
    monkeypatch.setattr(language_models, "PROBLEMS", (bigram_problem(),))
    table = tmp_path / "table.md"
    assert devinterp(["bench", "efficiency", "--problem", "bigrams", "--table", str(table)]) == 0
    assert "bigrams, reference " in table.read_text()


def test_trials_of_language_models_count_gradients_between_draws():
    problem = bigram_problem()
    model, data = problem.load()
    one = run_trial(problem, model, data, problem.cases[0], 5e-3)
    assert one.num_gradients == 2 * 60 * 2
    assert one.draws_per_gradient <= 0.5 * math.log10(120)
    assert one.error > 0
    diverged = run_trial(problem, model, data, Case("sgld", {}, (1e30,)), 1e30)
    assert np.isnan(diverged.estimate)
    assert np.isnan(diverged.draws_per_gradient)


def test_one_setting_is_changed_at_a_time():
    problem, effort = linear_regression(1, 1.0), Effort(1, 8, 20, 50, 0.5)
    changed, how = vary(problem, effort, Variant("n_beta", 0.1))
    assert changed.n_beta == pytest.approx(problem.n_beta / 10)
    assert how.lr == problem.lr(0.5)
    assert (changed.localization, Variant("n_beta", 0.1).label) == (problem.localization, "n_beta / 10")
    assert vary(problem, effort, Variant("lr", 3.0))[1].lr == pytest.approx(3 * problem.lr(0.5))


@pytest.mark.slow
def test_a_table_of_sensitivities():
    """At a tenth of n_beta the share of localization in one dimension is ten times as large."""
    problem = linear_regression(1, 1.0)
    measured = list(sensitivity([problem], "baoab", Effort(1, 16, 30, 90, 0.3)))
    assert [variant for variant, _ in measured] == list(VARIANTS)
    columns, (row, medians) = sensitivity_rows(measured)
    assert len(columns) == len(row) == len(medians) == 2 + len(VARIANTS)
    tight = measured[columns.index("localization x 10") - 1][1][0]
    assert abs(tight.estimate - 0.5 * 1e4 / (1e4 + 10)) < 4 * tight.error
    assert "-" not in row


def test_a_chain_whose_losses_are_too_large_to_be_stored_has_diverged():
    (measured,) = measure(linear_regression(1, 1.0), "baoab", Effort(1, 4, 50, 150, 5.0))
    assert measured.num_diverged == 4
    assert np.isnan(measured.estimate)


@pytest.mark.heavy
def test_coverage_counts_intervals():
    problem = NoisyProblem("d=2", lambda: Linear(torch.ones(1, 2)), 2, 1, num_samples=64, batch_size=16)
    assert set(LRS) == {"sgld", "baoab"}
    paired, plain = coverage(problem, "baoab", 12, num_draws=40)
    assert (paired.estimate, plain.estimate) == ("paired_llc_mean", "llc_mean")
    assert 0.5 <= paired.held <= 1
    assert 0.3 < paired.stated / paired.true < 3
    assert len(coverage_rows([paired, plain])) == 2
