"""How often verdicts of ``tree.slt.diagnose()`` are right, on runs with known coefficients and random settings."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from devinterp.analyses.diagnosis import diagnose
from devinterp.analyses.llc import compute_llc
from devinterp.errors import DivergenceWarning
from devinterp.sampling.data.columns import Batch
from devinterp.slt.sampling import sample
from devinterp.types import SEVERITIES
from devinterp_bench.problems import Problem, deep_linear, linear_regression, nonlinear_regressions, powers

#: A coefficient further off than this should be rejected or warned of; of a run judged ok it is at most so far off.
BAD, GOOD = 0.25, 0.1
#: What of the settings makes steps of RMSprop-SGLD as large as those of SGLD (`devinterp_bench.measure`).
_LR_FACTOR = {"rmsprop_sgld": 0.1}
_KERNELS = ("sgld", "sgld", "sgld", "baoab", "leimkuhler_matthews", "sghmc", "rmsprop_sgld")
_ROWS = 64


@dataclass(frozen=True)
class Trial:
    """One run with random settings, what it gave, and how it was judged.

    Parameters
    ----------
    problem, kernel : str
        What was sampled, and how.
    settings : dict
        The settings that were drawn.
    truth, estimate, error : float
        The exact learning coefficient, the paired estimate and its standard error; NaN where all chains diverged.
    verdict : str
        Of the diagnosis.
    codes : dict of str to str
        The worst severity of each code that was found.
    values : dict of str to float
        The figure that was judged, of the worst finding of each code.
    """

    problem: str
    kernel: str
    settings: dict[str, Any]
    truth: float
    estimate: float
    error: float
    verdict: str
    codes: dict[str, str] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)

    @property
    def is_good(self) -> bool:
        """Return whether the estimate is within a tenth of the truth, or three standard errors."""
        return abs(self.estimate - self.truth) <= max(GOOD * self.truth, 3 * self.error)

    @property
    def is_bad(self) -> bool:
        """Return whether the estimate is off by more than a quarter of the truth."""
        return not abs(self.estimate / self.truth - 1) <= BAD

    @property
    def is_flagged(self) -> bool:
        """Return whether the run is rejected or warned of."""
        return self.verdict in SEVERITIES[2:]


def problems() -> list[Problem]:
    """Return problems whose estimates with good settings are within a few per cent of the truth."""
    return [
        linear_regression(1, 1.0),
        linear_regression(4, 5.0),
        linear_regression(24, 10.0),
        *nonlinear_regressions(),
        *(powers(exponents, multiply=False) for exponents in ((2,), (3,), (1, 2), (2, 2, 2, 2, 2))),
        deep_linear((4, 3, 4), 1),
        deep_linear((2, 2, 6), 1),
        deep_linear((9, 2, 2), 1),
        deep_linear((8, 8, 8), 0),
    ]


def trials(num: int, *, seed: int = 0, max_steps: int = 2000) -> Iterator[Trial]:
    """Yield runs of random problems with random settings.

    Parameters
    ----------
    num : int
        How many.
    seed : int, default: 0
        Of everything that is drawn.
    max_steps : int, default: 2000
        Most steps of a chain, burn-in included.
    """
    rng, suite = np.random.default_rng(seed), problems()
    for number in range(num):
        problem = suite[int(rng.integers(len(suite)))]
        kernel = str(rng.choice(_KERNELS))
        yield run_trial(problem, kernel, draw_settings(rng, problem, kernel, max_steps), seed=1000 * seed + 17 * number)


def draw_settings(rng: np.random.Generator, problem: Problem, kernel: str, max_steps: int) -> dict[str, Any]:
    """Return random settings of a run: about half of them are such as a careful user would choose."""
    is_careful = rng.random() < 0.5
    relative = 10 ** (rng.uniform(-1.5, -0.3) if is_careful else rng.uniform(-3, 0.9))
    lr = problem.lr(relative * _LR_FACTOR.get(kernel, 1.0))
    burnin = 10 ** (rng.uniform(2.3, 3.0) if is_careful else rng.uniform(0, 3))
    draws = 10 ** (rng.uniform(2.3, 3.1) if is_careful else rng.uniform(1, 3))
    settings: dict[str, Any] = {
        "relative_lr": float(relative),
        "lr": float(lr),
        "n_beta": problem.n_beta,
        "localization": problem.localization * (1 if is_careful else float(10 ** rng.uniform(-1, 4))),
        "num_chains": int(rng.choice((2, 4, 8) if is_careful else (1, 2, 4))),
        "num_burnin_steps": int(min(burnin, 0.5 * max_steps)),
        "num_draws": int(min(draws, 0.5 * max_steps)),
        "noise": 0.0,
        "batch_size": _ROWS,
        "shift": 0.0,
    }
    if rng.random() < 0.4:
        # So that minibatch noise adds this share to the variance of the weights, for SGLD.
        share = 10 ** (rng.uniform(-3, -1.3) if is_careful else rng.uniform(-2, 1))
        settings["batch_size"] = 8
        settings["noise"] = math.sqrt(4 * 8 * share / (problem.lr(relative) * problem.n_beta**2))
    if not is_careful and rng.random() < 0.2:
        settings["shift"] = float(10 ** rng.uniform(-1, 1))
    return settings


def run_trial(problem: Problem, kernel: str, settings: dict[str, Any], *, seed: int) -> Trial:
    """Sample a problem with given settings and judge the run."""
    tree = _sampled(problem, kernel, settings, seed)
    judged = diagnose(tree)
    estimate, error = math.nan, math.nan
    if (tree["status/state"] == "finished").any():
        llc = compute_llc(tree, chains="finished")
        estimate, error = float(llc["paired_llc_mean"]), float(llc["paired_llc_se"])
    codes: dict[str, str] = {}
    values: dict[str, float] = {}
    for code, severity, value in zip(*(judged[name].to_numpy() for name in ("code", "severity", "value")), strict=True):
        codes.setdefault(str(code), str(severity))  # the worst come first
        values.setdefault(str(code), float(value))
    return Trial(
        problem.name,
        kernel,
        settings,
        float(problem.truth.value),
        estimate,
        error if math.isfinite(error) else math.inf,
        str(judged.attrs["verdict"]),
        codes,
        values,
    )


def _sampled(problem: Problem, kernel: str, settings: dict[str, Any], seed: int) -> xr.DataTree:
    model = problem.model()
    inputs, targets = problem.data(model)
    repeats = -(-_ROWS // len(inputs))
    data = [each.repeat(repeats, *[1] * (each.ndim - 1))[:_ROWS] for each in (inputs, targets)]
    # Whole copies, so that the loss is that of the problem.
    data = [each[: len(each) // len(inputs) * len(inputs)] for each in data]
    generator = torch.Generator().manual_seed(seed)
    slopes = torch.randn((len(data[0]), problem.num_parameters), generator=generator)
    slopes = settings["noise"] * (slopes - slopes.mean(0))
    if settings["shift"]:
        _shift(model, problem, settings, generator)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)  # what the verdict is about
        tree = sample(
            model,
            (*data, slopes),
            lr=settings["lr"],
            n_beta=settings["n_beta"],
            localization=settings["localization"],
            num_chains=settings["num_chains"],
            num_draws=settings["num_draws"],
            num_burnin_steps=settings["num_burnin_steps"],
            batch_size=min(settings["batch_size"], len(data[0])),
            num_init_loss_batches=1,
            init_seed=seed,
            loss_fn=_with_noise(problem),
            sampling_method=kernel,
            paired=True,
            progress=False,
        )
    assert isinstance(tree, xr.DataTree)
    return tree


def _with_noise(problem: Problem) -> Any:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        inputs, targets, slopes = batch
        assert isinstance(slopes, Tensor)
        weights = torch.cat([parameter.flatten() for parameter in model.parameters()])
        losses: Tensor = problem.loss_fn(model, (inputs, targets)) + slopes @ weights
        return losses

    return loss


@torch.no_grad()
def _shift(model: nn.Module, problem: Problem, settings: dict[str, Any], generator: torch.Generator) -> None:
    """Move the weights away from the minimum, by so many standard deviations of the posterior in stiff directions."""
    scale = settings["shift"] / math.sqrt(problem.n_beta * problem.stiffness)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=scale)


@dataclass(frozen=True)
class Summary:
    """How often verdicts are right.

    Parameters
    ----------
    num_trials, num_ok, num_bad : int
        Runs; those judged ok; those whose coefficient is off by more than a quarter.
    ok_are_good : float
        Share of the runs judged ok whose coefficient is within a tenth of the truth, or three standard errors.
    bad_are_flagged : float
        Share of the bad runs that are rejected or warned of.
    good_pass : float
        Share of the runs within a tenth of the truth that are judged ok or only noted.
    confusion : dict of str to dict
        By verdict, how many runs are off by at most a tenth, by at most a quarter, by more, or have no estimate.
    by_code : dict of str to dict
        By code, how many runs have it as a warning or a reason to reject, and how many of these are off by more than a tenth
        and by more than a quarter.
    """

    num_trials: int
    num_ok: int
    num_bad: int
    ok_are_good: float
    bad_are_flagged: float
    good_pass: float
    confusion: dict[str, dict[str, int]]
    by_code: dict[str, dict[str, int]]


def summarise_verdicts(done: Sequence[Trial]) -> Summary:
    """Return how often the verdicts of some trials are right."""
    ok, bad = [t for t in done if t.verdict == "ok"], [t for t in done if t.is_bad]
    close = [t for t in done if abs(t.estimate / t.truth - 1) <= GOOD]
    confusion = {verdict: dict.fromkeys(("within 10 %", "within 25 %", "beyond", "none"), 0) for verdict in SEVERITIES}
    for trial in done:
        off = abs(trial.estimate / trial.truth - 1)
        column = (
            "none" if math.isnan(off) else "within 10 %" if off <= GOOD else "beyond" if off > BAD else "within 25 %"
        )
        confusion[trial.verdict][column] += 1
    by_code: dict[str, dict[str, int]] = {}
    for code in sorted({code for trial in done for code in trial.codes}):
        flagged = [t for t in done if t.codes.get(code) in SEVERITIES[2:]]
        by_code[code] = {
            "warned or rejected": len(flagged),
            "off by more than 10 %": sum(not abs(t.estimate / t.truth - 1) <= GOOD for t in flagged),
            "off by more than 25 %": sum(t.is_bad for t in flagged),
            "noted": sum(t.codes.get(code) == SEVERITIES[1] for t in done),
        }
    return Summary(
        num_trials=len(done),
        num_ok=len(ok),
        num_bad=len(bad),
        ok_are_good=sum(t.is_good for t in ok) / max(len(ok), 1),
        bad_are_flagged=sum(t.is_flagged for t in bad) / max(len(bad), 1),
        good_pass=sum(not t.is_flagged for t in close) / max(len(close), 1),
        confusion=confusion,
        by_code=by_code,
    )


def verdict_tables(summary: Summary) -> str:
    """Return what a summary holds as Markdown: the confusion matrix, the codes, and the shares that count."""
    shares = f"{summary.ok_are_good:.1%}", f"{summary.bad_are_flagged:.1%}", f"{summary.good_pass:.1%}"
    lines = [
        f"{summary.num_trials} runs, {summary.num_ok} judged ok, {summary.num_bad} off by more than a quarter.",
        f"Of those judged ok, {shares[0]} are within a tenth of the truth or three standard errors.",
        f"Of those off by more than a quarter, {shares[1]} are rejected or warned of.",
        f"Of those within a tenth, {shares[2]} are judged ok or only noted.",
    ]
    for title, rows in (("verdict", summary.confusion), ("code", summary.by_code)):
        columns = list(next(iter(rows.values()), {}))
        lines += ["", f"| {title} | {' | '.join(columns)} |", f"| --- |{' ---: |' * len(columns)}"]
        lines += [f"| {name} | {' | '.join(str(row[column]) for column in columns)} |" for name, row in rows.items()]
    return "\n".join(lines) + "\n"


def verdicts_to_json(done: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return trials as JSON-able values: a number that is not finite is None."""
    return [
        {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in asdict(trial).items()}
        for trial in done
    ]
