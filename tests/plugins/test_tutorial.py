"""docs/plugins.md is true: the package it builds up is installed with pip, and everything it shows is tried."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from devinterp import hookspecs
from devinterp.testing import synthetic_tree
from devinterp.types import StepInputs, Target

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(PAGE.read_text())
HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("devinterp_"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package of the tutorial where nothing else is."""
    project, target = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("site")
    for _, title, source in BLOCKS:
        if title:
            (project / title).write_text(source)
    # The page names one entry point first, and all of them at its end.
    final = [source for language, title, source in BLOCKS if language == "toml" and not title]
    [pyproject] = [source for _, title, source in BLOCKS if title == "pyproject.toml"]
    section = re.compile(r"\[project\.entry-points\.devinterp\]\n(?:\w.*\n)+")
    (project / "pyproject.toml").write_text(section.sub(final[-1], pyproject))
    pip = "-m pip install --quiet --no-deps --no-build-isolation --no-index --disable-pip-version-check --target"
    subprocess.run([sys.executable, *pip.split(), target, project], check=True, timeout=300)
    return target


def with_plugin(site: Path) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DEVINTERP_")}
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**environment, "PYTHONPATH": path, "DEVINTERP_STRICT_PLUGINS": "1", "COLUMNS": "160"}


def run(site: Path, *command: object, folder: Path) -> str:
    done = subprocess.run(
        [str(each) for each in command],
        env=with_plugin(site),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_hook_has_a_heading() -> None:
    headings = re.findall(r"^### `(devinterp_\w+)`$", PAGE.read_text(), re.MULTILINE)
    assert sorted(headings) == HOOKS


def test_every_hook_has_an_example_and_a_test() -> None:
    code = "".join(source for language, _, source in BLOCKS if language == "python")
    tests = Path(__file__).with_name("test_host.py").read_text()
    for hook in HOOKS:
        assert f"@hookimpl\ndef {hook}():" in code
        kind = {"devinterp_model_adapters": "an_adapter"}.get(hook, f"a_{hook.removeprefix('devinterp_')[:-1]}")
        kind = {"a_analyse": "an_analysis"}.get(kind, kind)
        assert f"def test_{kind}_of_a_stranger(" in tests


def test_the_modules_are_the_entry_points() -> None:
    final = tomllib.loads([source for language, title, source in BLOCKS if language == "toml" and not title][-1])
    modules = {title.removesuffix(".py") for _, title, _ in BLOCKS if title.endswith(".py")}
    assert set(final["project"]["entry-points"]["devinterp"].values()) == modules


def test_the_sessions_are_true(site: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")  # a picture is drawn
    sessions = "\n".join(source for _, _, source in BLOCKS if source.startswith(">>>"))
    assert sessions.count(">>>") > 10
    (tmp_path / "sessions.txt").write_text(sessions)
    code = "import doctest, sys; sys.exit(bool(doctest.testfile(sys.argv[1], module_relative=False).failed))"
    run(site, sys.executable, "-c", code, tmp_path / "sessions.txt", folder=tmp_path)


@pytest.mark.heavy
def test_the_commands_are_true(site: Path, tmp_path: Path) -> None:
    tree = synthetic_tree(num_draws=20)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Consolidated metadata|.*does not have a Zarr V3 specification")
        tree.to_zarr(tmp_path / "run.zarr")
    [(_, title, source), *_] = BLOCKS
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / title).write_text(source)
    commands = [line[2:] for _, _, source in BLOCKS for line in source.splitlines() if line.startswith("$ ")]
    assert len(commands) >= 5
    printed = {}
    for command in commands:
        program, *options = command.split()
        path = tmp_path if "--plugins-dir" in options else site  # there, the file is tried before it is packaged
        printed[command] = run(path, Path(sys.executable).with_name(program), *options, folder=tmp_path)
    wbic = f"{64 * float(tree['trace/loss'].mean()):.5g}"
    assert wbic in printed["devinterp wbic run.zarr --num-samples 64"]
    assert wbic in printed["devinterp --plugins-dir plugins wbic run.zarr --num-samples 64"]
    assert printed["devinterp compare run.zarr run.zarr --burnin 5"].count("run.zarr: ") == 2
    assert (tmp_path / "wbic.zarr").is_dir()
    for word in (
        "slt-extras",
        "0.1",
        "analyses: wbic",
        "plots: histogram",
        "commands: compare",
        "kernels: tutorial_sghmc",
        "adapters: pairs",
        "recorders: biases",
    ):
        assert word in printed["devinterp plugins"]


@pytest.mark.heavy
def test_the_conformance_suite_of_the_page_passes(site: Path, tmp_path: Path) -> None:
    for name, suite, hook in (("extras", "AnalysisTests", "analyses"), ("biases", "RecorderTests", "recorders")):
        [source] = [source for _, title, source in BLOCKS if suite in source and not title]
        (tmp_path / f"test_{name}.py").write_text(f"from slt_{name} import devinterp_{hook}\n{source}")
    out = run(site, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path, folder=tmp_path)
    assert int(re.search(r"(\d+) passed", out)[1]) >= 13  # type: ignore[index]


def test_the_package_is_found_without_torch(site: Path, tmp_path: Path) -> None:
    code = """
import sys
from devinterp.testing import synthetic_tree
tree = synthetic_tree(num_draws=5)
tree.slt.wbic(num_samples=3), dir(tree.slt.plot), repr(tree.slt)
print([m for m in ("torch", "transformers", "matplotlib") if m in sys.modules])
"""
    assert run(site, sys.executable, "-c", code, folder=tmp_path) == "[]\n"


@pytest.mark.parametrize(("lr", "friction"), [(0.05, 0.2), (0.2, 0.5), (0.3, 1.0)])
def test_the_kernel_of_the_page_follows_its_exact_law(lr: float, friction: float) -> None:
    namespace: dict[str, object] = {"__name__": "slt_sghmc"}
    [source] = [source for _, title, source in BLOCKS if title == "slt_sghmc.py"]
    sys.modules["slt_sghmc"] = type(sys)("slt_sghmc")  # dataclasses look their module up
    try:
        exec(source, namespace)
    finally:
        del sys.modules["slt_sghmc"]
    target = Target(n_beta=2.0, localization=0.7, weight_decay=0.3)
    kernel = namespace["build"](target, lr=lr, friction=friction)  # type: ignore[operator]
    # With L(w) = w^2 / 2 the chain is linear: its covariance is the fixed point of S = A S A' + Q.
    curvature = target.n_beta + target.localization + target.weight_decay
    push = np.array([1 - friction, -lr * curvature])
    matrix = np.array([push, push + np.array([0, 1])])  # of (velocity, weight)
    kick = 2 * friction * lr * np.ones((2, 2))
    covariance = np.zeros((2, 2))
    for _ in range(2000):
        covariance = matrix @ covariance @ matrix.T + kick
    start, chains = 0.5, 40_000
    mean = np.linalg.solve(np.eye(2) - matrix, lr * target.localization * start * np.ones(2))

    generator = torch.Generator().manual_seed(0)
    weights, initial_weights = [torch.zeros(chains, 1)], [torch.full((chains, 1), start)]
    state = kernel.init(weights)
    for _ in range(300):
        noise = [torch.randn(chains, 1, generator=generator)]
        step = StepInputs(weights, [weights[0].clone()], initial_weights, state, noise)
        parts = kernel.terms(step)
        before = weights[0].clone()
        kernel.update(step)
        torch.testing.assert_close(weights[0] - before, sum(values[0] for values in parts.values()))
    samples = torch.stack([state["velocity"][0].squeeze(), weights[0].squeeze()]).double().numpy()
    error = np.sqrt((covariance**2 + np.outer(covariance.diagonal(), covariance.diagonal())) / chains)
    assert (np.abs(np.cov(samples) - covariance) < 4 * error).all()
    assert (np.abs(samples.mean(1) - mean) < 4 * np.sqrt(covariance.diagonal() / chains)).all()
