"""A calibration recommends settings whose run is good, or refuses and says why; it goes on where it was."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import devinterp
from devinterp import Calibration, CalibrationRefused, calibrate
from devinterp.calibration.subject import Subject
from devinterp.errors import InvalidInputError, StoreError, StoreMismatchError
from devinterp.sampling.run_store.weights_hash import hash_weights
from support.bowls import MANY, Bowl, bowl_loss, rows

DATA, LOSS = rows(16, num_weights=40), bowl_loss(curvatures=MANY)


def bowl(centre: float = 0.0) -> Bowl:
    return Bowl(centre, 20)


#: A calibration of about two seconds: one posterior, whose flat directions are filled within a few steps.
SHORT: dict[str, Any] = {
    "n_beta": 100.0,
    "localization": 5.0,
    "loss_fn": LOSS,
    "batch_size": 16,
    "num_chains": 2,
    "max_gradients": 5000,
    "error": 0.1,
    "progress": False,
}


def expected_llc(n_beta: float = 100.0, localization: float = 5.0) -> float:
    h = np.array(MANY).ravel()
    return float((n_beta * h / (n_beta * h + localization)).sum() / 2)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Calibration]:
    path = tmp_path_factory.mktemp("calibration") / "calibration.zarr"
    return path, calibrate(bowl(), DATA, output_path=path, **SHORT)


def test_the_run_that_is_recommended_is_good(stored: tuple[Path, Calibration]) -> None:
    _, calibration = stored
    tree = devinterp.sample(bowl(), DATA, loss_fn=LOSS, progress=False, **calibration.settings)
    assert tree.slt.diagnose().attrs["verdict"] in ("ok", "note")
    llc = tree.slt.llc()
    assert abs(float(llc["paired_llc_mean"]) - expected_llc()) < 4 * float(llc["paired_llc_se"])
    assert float(llc["paired_llc_se"]) < 2 * SHORT["error"] * expected_llc()
    recommendation = calibration.recommendation
    assert recommendation is not None
    taken = tree.sizes["chain"] * tree["trace"].sizes["step"]
    assert recommendation.predicted_gradients == taken


def test_restrictions_that_are_no_part_of_the_settings_are_named(stored: tuple[Path, Calibration]) -> None:
    _, calibration = stored
    assert "holds where these move" not in str(calibration)
    [measured] = calibration.measured
    restricted = replace(calibration, measured=[replace(measured, restriction="l29 mlp")])
    assert "It holds where these move: l29 mlp. Give `sample` the same `param_masks`" in str(restricted)


def test_what_it_says_of_its_runs(stored: tuple[Path, Calibration]) -> None:
    _, calibration = stored
    points = calibration.points
    assert (points["outcome"] == "recommended").sum() == 1
    chosen = points.isel(point=int((points["outcome"] == "recommended").argmax("point")))
    assert float(chosen["lr"]) == calibration.settings["lr"]
    assert abs(float(chosen["llc"]) - expected_llc()) < 4 * float(chosen["llc_se"])
    half = points.where(points["lr"] == float(chosen["lr"]) / 2, drop=True)
    assert half.sizes["point"] == 1
    stronger = points.where(points["localization"] == 10.0, drop=True)
    assert float(stronger["lr"].item()) == float(chosen["lr"])
    assert calibration.num_gradients <= SHORT["max_gradients"]
    own = sum(each.num_gradients for each in calibration.measured)
    assert calibration.num_gradients == own + int(points["num_gradients"].sum())
    assert "Recommended" in str(calibration)


def test_its_runs_are_one_tree(stored: tuple[Path, Calibration]) -> None:
    path, calibration = stored
    tree = devinterp.open(path)
    llc = tree.slt.llc()
    assert llc.sizes["point"] == 3
    assert set(llc["localization"].to_numpy()) == {5.0, 10.0}
    assert set(llc["lr"].to_numpy()) == {calibration.settings["lr"], calibration.settings["lr"] / 2}
    assert set(llc["kernel"].to_numpy()) == {"baoab"}
    (name,) = [name for name in tree.children if "null" in tree[name].children]
    assert f"lr{calibration.settings['lr']:g}-" in name
    plain = xr.open_datatree(path, engine="zarr")
    assert set(plain.children) == set(tree.children)
    assert not {"lock", "resume"} & {part for node in plain.subtree for part in node.path.split("/")}
    diagnosis = tree[name].slt.diagnose()
    assert bool(diagnosis["looked_at"].sel(check="null"))


def test_it_is_read_and_not_made_again(stored: tuple[Path, Calibration], monkeypatch: pytest.MonkeyPatch) -> None:
    path, calibration = stored
    monkeypatch.setattr(Subject, "run", _never)
    again = calibrate(bowl(), DATA, output_path=path, **SHORT)
    opened = Calibration.open(path)
    for other in (again, opened):
        assert str(other) == str(calibration)
        assert other.settings == calibration.settings
    assert opened.tree is not None


def _never(*args: Any, **options: Any) -> None:
    raise AssertionError("nothing is to be sampled")


@pytest.mark.heavy
def test_an_interrupted_one_goes_on(
    stored: tuple[Path, Calibration], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, num = Subject.run, 0

    def interrupted(self: Subject, *args: Any, **options: Any) -> Any:
        nonlocal num
        num += 1
        if num == 2:
            raise KeyboardInterrupt
        return plain(self, *args, **options)

    path = tmp_path / "calibration.zarr"
    monkeypatch.setattr(Subject, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        calibrate(bowl(), DATA, output_path=path, **SHORT)
    with pytest.raises(StoreError, match="no finished calibration"):
        Calibration.open(path)
    calibration = calibrate(bowl(), DATA, output_path=path, **SHORT)
    assert str(calibration) == str(stored[1])
    for name, run in devinterp.open(path).children.items():
        np.testing.assert_array_equal(run["trace/loss"], devinterp.open(stored[0])[name]["trace/loss"])


def test_one_with_weights_hashed_in_the_earlier_form_goes_on(
    stored: tuple[Path, Calibration], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "calibration.zarr"
    shutil.copytree(stored[0], path)
    root = path / "zarr.json"
    metadata = json.loads(root.read_text())
    (of_weights,) = metadata["attributes"]["calibration"]["fingerprints"].values()
    of_weights["weights"] = hash_weights(bowl(), like="0" * 32)
    root.write_text(json.dumps(metadata))
    monkeypatch.setattr(Subject, "run", _never)
    assert str(calibrate(bowl(), DATA, output_path=path, **SHORT)) == str(stored[1])
    with pytest.raises(StoreMismatchError, match="weights"):
        calibrate(bowl(0.1), DATA, output_path=path, **SHORT)


def test_another_calibration_is_not_mixed_with_it(stored: tuple[Path, Calibration], tmp_path: Path) -> None:
    path, calibration = stored
    with pytest.raises(StoreMismatchError, match="error: 0.1 in the store, 0.2 now"):
        calibrate(bowl(), DATA, output_path=path, **{**SHORT, "error": 0.2})
    with pytest.raises(StoreMismatchError, match="weights"):
        calibrate(bowl(0.1), DATA, output_path=path, **SHORT)
    run = tmp_path / "run.zarr"
    devinterp.sample(
        bowl(), DATA, loss_fn=LOSS, progress=False, output_path=run, **{**calibration.settings, "num_draws": 1}
    )
    with pytest.raises(StoreError, match="holds no study"):
        calibrate(bowl(), DATA, output_path=run, **SHORT)


def test_how_much_localization_decides_is_known(stored: tuple[Path, Calibration]) -> None:
    _, calibration = stored
    recommendation = calibration.recommendation
    assert recommendation is not None
    expected = np.log2(expected_llc(localization=5.0) / expected_llc(localization=10.0))
    # From one run where that says more: the slope at the localization itself, which is a little less.
    assert abs(recommendation.slope - expected) < 4 * recommendation.slope_se + 0.03
    assert recommendation.slope_se < 0.1


@pytest.mark.parametrize(
    ("slope", "error", "is_said", "is_much"),
    [(0.05, 0.01, False, False), (0.2, 0.15, False, False), (0.2, 0.05, True, False), (0.6, 0.05, True, True)],
)
def test_a_recommendation_says_what_localization_decides(
    stored: tuple[Path, Calibration], slope: float, error: float, is_said: bool, is_much: bool
) -> None:
    _, calibration = stored
    assert calibration.recommendation is not None
    text = str(replace(calibration, recommendation=replace(calibration.recommendation, slope=slope, slope_se=error)))
    assert ("falls as localization to the power" in text) == is_said
    assert ("Localization decides much of it" in text) == is_much


def test_more_than_is_asked_for_is_refused_and_may_be_allowed_later(
    stored: tuple[Path, Calibration], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "calibration.zarr"
    shutil.copytree(stored[0], path)
    monkeypatch.setattr(Subject, "run", _never)
    with pytest.raises(
        CalibrationRefused, match=r"between localization 5 and 10 .* `max_slope=` allows more"
    ) as refused:
        calibrate(bowl(), DATA, output_path=path, max_slope=0.01, **SHORT)
    calibration = refused.value.calibration
    assert calibration is not None
    assert "prior_dominated" in calibration.points["outcome"].to_numpy()
    assert Calibration.open(path).recommendation is None
    assert str(calibrate(bowl(), DATA, output_path=path, **SHORT)) == str(stored[1])


@pytest.mark.slow
def test_in_memory_it_is_the_same(stored: tuple[Path, Calibration]) -> None:
    calibration = calibrate(bowl(), DATA, **SHORT)
    assert str(calibration) == str(stored[1])
    assert calibration.tree is not None
    assert calibration.tree.slt.llc().sizes["point"] == 3


@pytest.mark.parametrize(
    ("model", "changes", "code", "place"),
    [
        (bowl(), {"lr": 0.05}, "step_too_large", ""),
        (bowl(3.0), {}, "loss_decreased", "full"),
        ({"good": bowl(), "moved": bowl(3.0)}, {}, "loss_decreased", "moved: full"),
        (bowl(), {"max_gradients": 300}, "short_burnin", ""),
        pytest.param(
            bowl(3.0),
            {"localization": [5.0 + n for n in range(9)], "max_gradients": 1500},
            "budget",
            "",
            marks=pytest.mark.slow,
        ),
        (bowl(), {"localization": 1000.0}, "prior_dominated", "full"),
        # At more localization it would decide more: these are not tried.
        (bowl(), {"localization": [1000.0, 2000.0], "max_gradients": 9000}, "prior_dominated", "full"),
        (bowl(), {"lr": 1e-3, "batch_size": 4, "dataset": rows(16, 30.0, 40)}, "too_much_noise", ""),
    ],
)
def test_it_refuses_and_says_why(model: Any, changes: dict[str, Any], code: str, place: str) -> None:
    data = changes.pop("dataset", DATA)
    with pytest.raises(CalibrationRefused, match="No setting is recommended") as refused:
        calibrate(model, data, **{**SHORT, **changes})
    calibration = refused.value.calibration
    assert calibration is not None
    assert code in calibration.points["outcome"].to_numpy()
    if code == "prior_dominated":
        assert set(calibration.points["localization"].to_numpy()) == {1000.0}
    assert f"{place}: " in str(refused.value)
    with pytest.raises(CalibrationRefused):
        _ = calibration.settings


def test_a_refusal_is_stored_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "calibration.zarr"
    with pytest.raises(CalibrationRefused) as first:
        calibrate(bowl(3.0), DATA, output_path=path, **SHORT)
    monkeypatch.setattr(Subject, "run", _never)
    with pytest.raises(CalibrationRefused) as again:
        calibrate(bowl(3.0), DATA, output_path=path, **SHORT)
    assert str(first.value) == str(again.value)
    assert Calibration.open(path).recommendation is None


def test_a_dry_run_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Subject, "run", _never)
    path = tmp_path / "calibration.zarr"
    settings = {**SHORT, "localization": None, "kernels": ("baoab", "sgld")}
    planned = calibrate(bowl(), DATA, output_path=path, dry_run=True, **settings)
    assert not path.exists()
    outcomes = set(planned.points["outcome"].to_numpy())
    assert outcomes == {"to be run", "short_burnin"}
    assert (planned.points["num_gradients"] > 0).to_numpy().tolist() == [
        each == "to be run" for each in planned.points["outcome"].to_numpy()
    ]
    assert "A dry run" in str(planned)


def test_a_budget_that_is_too_small_says_which_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The budget that the table names is the least with which that refusal is gone."""
    monkeypatch.setattr(Subject, "run", _never)

    def outcomes(max_gradients: int) -> tuple[set[str], str]:
        planned = calibrate(bowl(), DATA, dry_run=True, **{**SHORT, "max_gradients": max_gradients})
        return set(planned.points["outcome"].to_numpy()), str(planned)

    refused, text = outcomes(300)
    assert refused == {"short_burnin"}
    least = min(int(number) for number in re.findall(r"one of max_gradients=(\d+) this point", text))
    assert outcomes(least - 1)[0] == {"short_burnin"}
    assert "to be run" in outcomes(least)[0]


@pytest.mark.slow
def test_one_setting_for_several_restrictions_and_an_observable() -> None:
    both = torch.ones(20, dtype=torch.bool)
    calibration = calibrate(
        bowl(),
        DATA,
        {"same": (DATA, 1)},
        weight_restrictions={"all": None, "first": {"first": both}},
        **{**SHORT, "max_gradients": 20_000},
    )
    assert [each.restriction for each in calibration.measured] == ["all", "first"]
    assert calibration.tree is not None
    assert set(calibration.tree.slt.llc().sizes) >= {"point", "restriction"}
    run = next(iter(calibration.tree.children.values()))
    assert run["restriction"].to_numpy().tolist() == ["all", "first"]
    assert "same" in run["observables"].children


@pytest.mark.parametrize(("model", "message"), [({}, "empty mapping"), ({"a/b": bowl()}, "without '/'")])
def test_what_cannot_be_calibrated(model: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        calibrate(model, DATA, **SHORT)
