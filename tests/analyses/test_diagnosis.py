"""Every finding is found where it should be, not where it should not, and verdicts are the worst of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor, nn

import devinterp
from devinterp import Check, Finding, plugins, sample
from devinterp.analyses.common.limits import LIMITS, Limit
from devinterp.analyses.diagnosis import diagnose
from devinterp.analyses.diagnosis.drift import drift
from devinterp.analyses.diagnosis.evidence import Evidence
from devinterp.analyses.diagnosis.series import Series
from devinterp.analyses.diagnosis.signal import few_draws
from devinterp.analyses.llc.draw_rise import DrawRise
from devinterp.errors import InvalidInputError, MissingDataError
from devinterp.testing import synthetic_tree
from devinterp.types import SEVERITIES
from support.small_models import ids, run

ROOT = Path(__file__).parents[2]
V2 = ROOT / "tests" / "data" / "v2" / "v2_store.zarr"
#: A run that nothing is wrong with, but that all that is known of its temperature is how long it is.
HEALTHY: dict[str, Any] = {"num_chains": 4, "num_draws": 600, "num_burnin_steps": 700, "num_tokens": 3, "batch_size": 2}
NUM_WEIGHTS = 6


def tree_of(**changes: Any) -> xr.DataTree:
    return synthetic_tree(**{**HEALTHY, "observables": {"code": (4, 5)}, **changes})


def with_metrics(tree: xr.DataTree, *, temperature: float = 1.0, slope: float = 0.0, seed: int = 0) -> xr.DataTree:
    """Add the virial of chains at a temperature; ``slope`` correlates the distance from w0 with the loss."""
    shape = (1, tree.sizes["chain"], tree.sizes["draw"])
    rng = np.random.default_rng(seed)
    series = rng.gamma(NUM_WEIGHTS / 2, 2.0, shape) / NUM_WEIGHTS * temperature
    at_draws = DrawRise.of(tree, tree["draw_step"].to_numpy())
    assert at_draws is not None
    rise = at_draws.rise.to_numpy()
    dims = ("restriction", "chain", "draw")
    size = np.full((1, 1), NUM_WEIGHTS)
    metrics = xr.Dataset(
        {
            "virial": (dims, NUM_WEIGHTS * series),
            "virial_gradient": (dims, 2 * rise),
            "virial_square": (dims, 1.0 + slope * (rise - rise.mean())),
            "parameter_virial": ((*dims, "parameter"), NUM_WEIGHTS * series[..., None]),
            "parameter_size": (("restriction", "parameter"), size),
        },
        coords={"parameter": ["weights"]},
    )
    return xr.DataTree.from_dict(
        {**{node.path: node.to_dataset(inherit=False) for node in tree.subtree}, "/metrics": metrics}
    )


def findings(result: xr.Dataset, severity: str | None = None) -> set[str]:
    kept = [severity is None or each == severity for each in result["severity"].to_numpy()]
    return {str(code) for code, keep in zip(result["code"].to_numpy(), kept, strict=True) if keep}


def changed(tree: xr.DataTree, path: str, change: Callable[[np.ndarray], np.ndarray]) -> xr.DataTree:
    tree = tree.copy(deep=True)
    group, _, name = path.rpartition("/")
    dataset = tree[group].to_dataset(inherit=False)
    dataset[name] = (dataset[name].dims, change(dataset[name].to_numpy().copy()))
    tree[group].dataset = dataset
    return tree


def settings_of(tree: xr.DataTree, **changes: Any) -> xr.DataTree:
    tree = tree.copy()
    tree.attrs["config"] = json.dumps({**json.loads(tree.attrs["config"]), **changes})
    return tree


def test_a_healthy_run_is_ok() -> None:
    result = diagnose(with_metrics(tree_of()))
    assert findings(result) == {"too_much_noise"}, "the unpaired coefficient is noisier, which is noted"
    assert set(result["severity"].to_numpy()) == {"note"}
    assert result.attrs["verdict"] == result["verdict"].item() == "note"


class Bowl(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(50))


def bowl(model: Any, batch: Any) -> Tensor:
    return 0.5 * (model.weights**2).sum() + 0 * batch[0]


def test_of_a_sampled_run_nothing_is_found_where_nothing_is_wrong() -> None:
    settings = {"n_beta": 100.0, "localization": 1.0, "lr": 5e-3, "sampling_method": "baoab", "batch_size": 2}
    tree = sample(
        Bowl(),
        (torch.zeros(2),),
        loss_fn=bowl,
        num_burnin_steps=100,
        num_draws=400,
        num_init_loss_batches=1,
        **settings,
    )
    result = tree.slt.diagnose()
    assert result.attrs["verdict"] == "ok", result["message"].to_numpy()
    assert result.sizes["finding"] == 0
    left_out = set(result["check"].to_numpy()[~result["looked_at"].to_numpy()])
    assert left_out == {"tokens", "acceptance", "directions", "localization", "seen_in_the_loss", "null"}
    assert abs(float(tree.slt.llc()["paired_llc_mean"]) - 25 * 100 / 101) < 4 * float(tree.slt.llc()["paired_llc_se"])


def spikes(loss: np.ndarray) -> np.ndarray:
    loss[:, 1, 800:803] += 50
    return loss


def apart(loss: np.ndarray) -> np.ndarray:
    loss[:, 2] += 1.0
    return loss


def with_noise_of_all(loss: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(loss.shape[2])[:, None, None]
    return loss + 2 * loss.std() * noise.astype(loss.dtype)


def rising(loss: np.ndarray) -> np.ndarray:
    loss += np.linspace(0, 1, loss.shape[2], dtype=loss.dtype)[:, None, None] ** 4
    return loss


def beside(tree: xr.DataTree, null: xr.DataTree) -> xr.DataTree:
    """Return a run with a null run."""
    parts = {f"{prefix}{node.path}": node for prefix, run in (("", tree), ("/null", null)) for node in run.subtree}
    return xr.DataTree.from_dict({path.rstrip("/"): node.to_dataset(inherit=False) for path, node in parts.items()})


FAULTS: dict[str, tuple[Callable[[], xr.DataTree], str]] = {
    "drift": (lambda: changed(tree_of(), "trace/loss", rising), "reject"),
    "chains_disagree": (lambda: changed(tree_of(), "trace/loss", apart), "reject"),
    "spiky": (lambda: changed(tree_of(), "trace/loss", spikes), "warning"),
    "loss_decreased": (lambda: changed(tree_of(), "trace/row_loss", lambda loss: loss + 3), "reject"),
    "too_little_signal": (lambda: changed(tree_of(), "trace/row_loss", lambda loss: loss + 0.12), "reject"),
    "stuck": (lambda: tree_of(scale=0.0), "reject"),
    "few_draws": (lambda: tree_of(num_draws=6), "warning"),
    "diverged": (lambda: tree_of(diverged=[(0, 2)]), "reject"),
    "unfinished": (
        lambda: changed(tree_of(), "status/state", lambda s: np.where(np.arange(4) == 1, "running", s)),
        "warning",
    ),
    "shared_noise": (lambda: tree_of(row_losses=False), "note"),
    "shared_noise, of paired losses": (lambda: changed(tree_of(), "trace/loss", with_noise_of_all), "note"),
    "short_burnin": (lambda: tree_of(num_burnin_steps=20), "warning"),
    "cold": (lambda: with_metrics(tree_of(), temperature=0.3), "reject"),
    "hot": (lambda: with_metrics(tree_of(), temperature=1.3), "warning"),
    "prior_dominated": (lambda: with_metrics(tree_of(), slope=1.2), "reject"),
    "step_too_large": (lambda: settings_of(tree_of(), lr=0.3), "reject"),
    "too_much_noise": (tree_of, "note"),
    "survives_in_null": (lambda: beside(tree_of(), tree_of(seed=1, scale=0.1)), "reject"),
    "tokens_disagree": (lambda: tree_of(num_draws=40, autocorrelation=0.97), "warning"),
}


def test_a_null_run_that_goes_much_further_says_nothing() -> None:
    result = diagnose(beside(tree_of(), tree_of(seed=1, scale=0.3)))
    assert "survives_in_null" not in findings(result)
    assert bool(result["looked_at"].sel(check="null"))
    broken = diagnose(beside(tree_of(), tree_of(diverged=[(0, chain) for chain in range(4)])))
    assert not bool(broken["looked_at"].sel(check="null"))
    assert broken["reason"].sel(check="null").item() == "no chain of the null run has finished"


@pytest.mark.parametrize("code", FAULTS)
def test_a_fault_is_found(code: str) -> None:
    make, severity = FAULTS[code]
    result = diagnose(make())
    code = code.partition(",")[0]
    assert code in findings(result, severity), result["message"].to_numpy()
    assert SEVERITIES.index(result.attrs["verdict"]) >= SEVERITIES.index(severity)
    order = [SEVERITIES.index(each) for each in result["severity"].to_numpy()]
    assert order == sorted(order, reverse=True), "the worst come first"
    chosen = result.isel(finding=[n for n, each in enumerate(result["code"].to_numpy()) if each == code])
    assert all(str(each) for each in chosen["message"].to_numpy())
    if code not in ("diverged", "unfinished"):
        assert all(str(each) for each in chosen["advice"].to_numpy())


#: Of docs/symptoms.md: lr·γ, steps of burn-in, and what is found of the step and of the length of 100 draws.
PUBLISHED: dict[str, tuple[float, int, set[str]]] = {
    "susceptibilities": (0.3, 300, set()),
    "refined LLC": (0.2, 300, set()),
    "influences of ResNet-9": (0.1, 300, set()),
    "Pythia-1.4B": (0.03, 300, set()),
    "Pythia-14M": (3.0, 300, {"step_too_large"}),
    "Pythia-6.9B": (0.009, 0, {"short_burnin"}),
}


@pytest.mark.parametrize("setting", PUBLISHED)
def test_settings_that_papers_report(setting: str) -> None:
    step, num_burnin_steps, expected = PUBLISHED[setting]
    tree = tree_of(num_draws=100, num_burnin_steps=num_burnin_steps)
    given = findings(diagnose(settings_of(tree, sampling_method="sgld", lr=step / 100, localization=100.0)))
    assert given & {"step_too_large", "short_burnin"} == expected


def test_a_finding_says_where() -> None:
    result = diagnose(tree_of(num_restrictions=2, diverged=[(1, 2)]))
    [number] = [n for n, code in enumerate(result["code"].to_numpy()) if code == "diverged"]
    row = {name: result[name].to_numpy()[number] for name in ("restriction", "chain", "message")}
    assert (row["restriction"], row["chain"]) == ("part1", 2)
    assert "nan" in row["message"]
    apart_in_code = changed(tree_of(), "observables/code/loss", apart)
    result = diagnose(apart_in_code)
    assert {str(each) for each in result["observable"].to_numpy()[result["code"].to_numpy() == "chains_disagree"]} == {
        "code"
    }


def test_of_a_run_without_a_finished_chain_only_that_is_said() -> None:
    result = diagnose(tree_of(num_chains=2, diverged=[(0, 0), (0, 1)]))
    assert findings(result) == {"diverged"}
    assert result.attrs["verdict"] == "reject"
    assert int(result["looked_at"].sum()) == 1
    assert "no chain has finished" in result["reason"].to_numpy().tolist()


def test_what_could_not_be_looked_at_is_said() -> None:
    result = diagnose(tree_of())
    reasons = dict(zip(result["check"].to_numpy(), result["reason"].to_numpy(), strict=True))
    assert "virial=True" in reasons["temperature"]
    assert "mala_acceptance" in reasons["acceptance"]
    assert reasons["rhat"] == ""
    assert not result["looked_at"].sel(check="temperature")


def test_acceptance() -> None:
    def accepted(rate: float) -> set[str]:
        tree = with_metrics(tree_of())
        steps = xr.zeros_like(tree["trace/loss"].isel(batch=0, position=0, drop=True)) + rate
        tree["metrics"].dataset = tree["metrics"].to_dataset(inherit=False).assign(mala_acceptance=steps)
        return findings(diagnose(tree)) - {"too_much_noise"}

    assert accepted(0.4) == accepted(0.8) == {"step_too_large"}
    assert accepted(0.95) == set()
    assert accepted(0.9999) == {"step_needlessly_small"}


def test_stores_of_devinterp_2() -> None:
    result = devinterp.open(V2).slt.diagnose()
    assert result.attrs["verdict"] in SEVERITIES
    looked_at = result["check"].to_numpy()[result["looked_at"].to_numpy()]
    assert {"rhat", "spread", "signal", "decreased", "chain_states"} <= set(looked_at)
    assert {"temperature", "prior_dominated"}.isdisjoint(looked_at)


def test_several_runs_have_a_verdict_each() -> None:
    good, bad = with_metrics(tree_of()), settings_of(changed(tree_of(), "trace/loss", apart), lr=2e-3)
    both = xr.DataTree.from_dict({})
    both["good"], both["bad"] = good, bad
    result = both.slt.diagnose()
    assert result["verdict"].sel(lr=1e-3).item() == "note"
    assert result["verdict"].sel(lr=2e-3).item() == "reject"


def test_it_does_not_depend_on_laziness_or_chunks() -> None:
    whole = diagnose(with_metrics(tree_of(num_draws=60)))
    lazy = diagnose(with_metrics(tree_of(num_draws=60)).chunk({"draw": 7, "chain": 1, "step": 100}))
    for name in ("code", "severity", "message", "looked_at"):
        np.testing.assert_array_equal(lazy[name], whole[name])


def test_burnin_can_be_chosen_and_must_leave_steps() -> None:
    assert diagnose(tree_of(), burnin=1250).attrs["burnin"] == 1250
    with pytest.raises(InvalidInputError, match="burnin"):
        diagnose(tree_of(), burnin=10_000)
    with pytest.raises(MissingDataError):
        diagnose(xr.DataTree())


def test_every_code_and_limit_is_documented() -> None:
    page = (ROOT / "docs" / "diagnosis.md").read_text().partition("## Codes")[2]
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    known = {code for check in plugins.checks().values() for code in check.codes}
    assert sorted(rows) == sorted(known)
    assert {each.partition(",")[0] for each in FAULTS} | {"step_needlessly_small"} == known
    assert all(limit.source for limit in LIMITS.values())


def test_limits() -> None:
    limit = Limit(note=1.0, warning=2.0, reject=3.0)
    assert [limit.judge(value) for value in (0.5, 1.5, 2.5, 3.5, np.nan)] == [
        None,
        ("note", 1.0),
        ("warning", 2.0),
        ("reject", 3.0),
        None,
    ]
    assert Limit(warning=2.0, below=True).judge(1.0) == ("warning", 2.0)
    assert Limit(warning=2.0, below=True).judge(3.0) is None


def test_a_check_of_a_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    def judge(evidence: Any) -> list[Finding]:
        assert evidence.series[0].rise.dims[-1] == "draw"
        return [Finding("odd", "warning", f"{evidence.settings['lr']} is odd", value=1.0)]

    strange = Check("strange", judge, {"odd": "it is odd"})
    lacking = Check("lacking", judge, {"odd": "it is odd"}, requires=("metrics/strange",))
    checks = {**plugins.checks(), "strange": strange, "lacking": lacking}
    monkeypatch.setattr(plugins, "checks", lambda: checks)
    result = diagnose(tree_of())
    assert "odd" in findings(result, "warning")
    assert not result["looked_at"].sel(check="lacking")
    with pytest.raises(InvalidInputError, match="severity"):
        Finding("odd", "bad", "no such severity")


def test_the_verdict_stands_beside_the_coefficient() -> None:
    assert tree_of().slt.llc().attrs["verdict"] == "ok"
    bad = changed(tree_of(), "trace/loss", apart).slt.llc()
    assert bad.attrs["verdict"] == "reject"
    assert bad.attrs["findings"][0] == "chains_disagree"
    cold = with_metrics(tree_of(), temperature=0.3).slt.llc()
    assert (cold.attrs["verdict"], cold.attrs["findings"]) == ("reject", ["cold"])
    assert tree_of(chunks={"step": 500}).slt.llc().attrs["verdict"].startswith("not judged")


@pytest.mark.parametrize(
    "changes",
    [
        {"num_draws": 1, "num_chains": 1},
        {"num_draws": 2},
        {"noise_level": 0.0},
        {"noise_level": 2.0},
        {"n_beta": 0.0},
        {"localization": 0.0},
        {"bounding_box_size": 0.01},
        {"init_noise": 0.01},
        {"batch_size": 1},
        {"record": "moments"},
        {"record": "sequence"},
        {"gradient_accumulation_steps": 2},
        {"match_sampling_input_ids_across_chains": False, "loss_dtype": "float16"},
    ],
)
def test_runs_of_any_kind_are_judged(changes: dict[str, Any]) -> None:
    tree = run(observables={"watched": ids()}, **changes)
    result = tree.slt.diagnose()
    assert result.attrs["verdict"] in SEVERITIES
    assert result.attrs["verdict"] != "ok", "they have four draws"
    assert {"few_draws"} <= findings(result)
    assert tree.slt.llc().attrs["verdict"] in SEVERITIES


def test_a_slope_that_is_not_known_well_enough_is_a_warning() -> None:
    tree = with_metrics(tree_of(num_draws=40), slope=1.5)
    for seed in range(40):
        noise = 3 * np.random.default_rng(seed).normal(size=tree["metrics/virial_square"].shape)
        noisy = changed(tree, "metrics/virial_square", lambda square, noise=noise: square + noise)
        slopes = noisy.slt.sensitivity()
        if 0.75 < -float(slopes["s_gamma"]) < 2 * float(slopes["s_gamma_se"]) < 2:
            break
    else:
        raise AssertionError("no slope was as uncertain as it is large")
    result = diagnose(noisy)
    assert "prior_dominated" in findings(result, "warning")
    assert "prior_dominated" not in findings(result, "reject")


def test_a_slope_that_is_not_known_at_all_is_not_looked_at() -> None:
    tree = with_metrics(tree_of(num_draws=40), slope=1.5)
    noise = 1e3 * np.random.default_rng(0).normal(size=tree["metrics/virial_square"].shape)
    result = diagnose(changed(tree, "metrics/virial_square", lambda square: square + noise))
    assert not bool(result["looked_at"].sel(check="prior_dominated"))
    assert "the slope is known to ±" in result["reason"].sel(check="prior_dominated").item()


def test_a_slope_that_flat_weights_make_by_chance_is_not_looked_at() -> None:
    """On most losses slopes lie between 0 and 1: one of 60 ± 25 is noise, and was a reason to reject a run."""
    tree = with_metrics(tree_of(num_draws=40))
    for seed in range(200):
        noise = 1e3 * np.random.default_rng(seed).normal(size=tree["metrics/virial_square"].shape)
        noisy = changed(tree, "metrics/virial_square", lambda square, noise=noise: square + noise)
        slopes = noisy.slt.sensitivity()
        if -float(slopes["s_gamma"]) > 2 * float(slopes["s_gamma_se"]) > 2:
            break
    else:
        raise AssertionError("no slope was beyond two of its errors")
    result = diagnose(noisy)
    assert "prior_dominated" not in findings(result)
    assert not bool(result["looked_at"].sel(check="prior_dominated"))


@pytest.mark.parametrize(
    ("kernel", "options", "factor"),
    [("sgld", {}, 1.0), ("sghmc", {"friction": 0.5}, 2.0), ("baoab", {}, 9.0), ("leimkuhler_matthews", {}, 1.0)],
)
def test_kernels_with_momentum_are_heated_more(kernel: str, options: dict[str, float], factor: float) -> None:
    def heat(name: str, given: dict[str, float], lr: float) -> float:
        tree = settings_of(with_metrics(tree_of()), sampling_method=name, sampling_method_kwargs=given, lr=lr)
        metrics = tree["metrics"].to_dataset(inherit=False)
        noise = np.random.default_rng(2).normal(size=metrics["virial_gradient"].shape)
        metrics["virial_gradient"] = metrics["virial_gradient"] + noise
        tree["metrics"].dataset = metrics
        result = diagnose(tree)
        values = zip(result["code"].to_numpy(), result["message"].to_numpy(), result["value"].to_numpy(), strict=True)
        return float(next(value for code, message, value in values if code == "too_much_noise" and "adds" in message))

    assert heat(kernel, options, 0.01) == pytest.approx(factor * heat("sgld", {}, 0.01))


@pytest.mark.parametrize("check", [drift, few_draws])
def test_of_many_series_the_worst_is_beyond_the_limit_of_one_by_chance(check: Any) -> None:
    num_draws = 160

    def is_found(tree: xr.DataTree, seed: int) -> bool:
        """Say whether something is found where each restriction has two chains of white noise around its mean."""
        evidence, names = Evidence(tree, tree, 0), tree["restriction"].values
        noise = 1 + np.random.default_rng(seed).normal(size=(len(names), 2, num_draws))
        rise = xr.DataArray(noise, {"restriction": names}, ("restriction", "chain", "draw"))
        evidence.series = [Series("", rise, is_paired=True, is_shared=False)]
        return bool(list(check(evidence)))

    one, many = (synthetic_tree(num_restrictions=num, num_chains=2, num_draws=4) for num in (1, 200))
    assert sum(is_found(one, seed) for seed in range(200)) <= 8  # 1 % are expected
    assert sum(is_found(many, seed) for seed in range(20)) <= 2
