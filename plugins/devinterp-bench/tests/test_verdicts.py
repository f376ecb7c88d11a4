"""Verdicts are right on runs whose coefficients are known: a few here, hundreds as a benchmark."""

from __future__ import annotations

import json
import math

import pytest

from devinterp.cli import run as devinterp
from devinterp.types import SEVERITIES
from devinterp_bench.problems import linear_regression
from devinterp_bench.verdicts import Trial, run_trial, summarise_verdicts, trials, verdict_tables

GOOD = {
    "n_beta": linear_regression(4, 5.0).n_beta,
    "localization": 1.0,
    "num_chains": 4,
    "num_burnin_steps": 100,
    "num_draws": 300,
    "noise": 0.0,
    "batch_size": 64,
    "shift": 0.0,
}


def trial(kernel: str = "baoab", relative: float = 0.5, **changes: float) -> Trial:
    problem = linear_regression(4, 5.0)
    return run_trial(problem, kernel, {**GOOD, "lr": problem.lr(relative), **changes}, seed=3)


def test_good_settings_are_judged_ok() -> None:
    good = trial()
    assert good.verdict == "ok", good.codes
    assert good.is_good
    assert not good.is_bad


@pytest.mark.parametrize(
    ("code", "kernel", "relative", "changes"),
    [
        pytest.param("cold", "sgld", 0.001, {}, marks=pytest.mark.slow),
        ("hot", "sgld", 3.0, {}),
        pytest.param("prior_dominated", "baoab", 0.3, {"localization": 30_000.0}, marks=pytest.mark.slow),
        ("loss_decreased", "baoab", 0.5, {"shift": 10.0}),
        ("diverged", "sgld", 20.0, {}),
        pytest.param("too_much_noise", "sgld", 0.5, {"batch_size": 8, "noise": 0.5}, marks=pytest.mark.slow),
    ],
)
def test_bad_settings_are_not(code: str, kernel: str, relative: float, changes: dict[str, float]) -> None:
    bad = trial(kernel, relative, **changes)
    assert bad.is_bad
    assert bad.is_flagged
    assert code in bad.codes, bad.codes


@pytest.mark.heavy
def test_random_settings() -> None:
    summary = summarise_verdicts(list(trials(10, seed=4, max_steps=200)))
    print("\n" + verdict_tables(summary))
    assert summary.num_bad >= 3
    assert summary.bad_are_flagged >= 0.9
    assert summary.ok_are_good >= 0.95 or not summary.num_ok


@pytest.mark.benchmark
def test_two_hundred_random_settings() -> None:
    summary = summarise_verdicts(list(trials(200, seed=7)))
    print("\n" + verdict_tables(summary))
    assert summary.num_ok >= 10
    assert summary.ok_are_good >= 0.95
    assert summary.bad_are_flagged >= 0.9


def test_what_is_counted() -> None:
    def one(estimate: float, verdict: str, code: str = "", error: float = 0.01) -> Trial:
        severity = verdict if verdict in SEVERITIES[1:] else ""
        return Trial("p", "k", {}, 1.0, estimate, error, verdict, {code: severity} if code else {}, {})

    done = [
        one(1.05, "ok"),
        one(1.2, "ok", error=0.1),
        one(1.2, "ok"),
        one(1.5, "note", "spiky"),
        one(0.5, "reject", "drift"),
        one(math.nan, "reject", "drift", math.inf),
    ]
    summary = summarise_verdicts(done)
    assert (summary.num_trials, summary.num_ok, summary.num_bad) == (6, 3, 3)
    assert summary.ok_are_good == pytest.approx(2 / 3)
    assert summary.bad_are_flagged == pytest.approx(2 / 3)
    assert summary.confusion["reject"] == {"within 10 %": 0, "within 25 %": 0, "beyond": 1, "none": 1}
    assert summary.by_code["drift"]["off by more than 25 %"] == 2
    assert summary.by_code["spiky"]["noted"] == 1
    assert "| reject | 0 | 0 | 1 | 1 |" in verdict_tables(summary)


@pytest.mark.heavy
def test_the_command(tmp_path, capsys) -> None:
    output, table = tmp_path / "verdicts.json", tmp_path / "table.md"
    assert devinterp(["bench", "verdicts", "--seeds", "1", "-o", str(output), "--table", str(table)]) == 0
    assert "1 runs" in capsys.readouterr().out
    assert json.loads(output.read_text())["summary"]["num_trials"] == 1
    assert "| verdict |" in table.read_text()
