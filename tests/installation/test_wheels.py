"""Wheels of the package and of its plugins, installed as people do it: `make test-wheels`. Each takes minutes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECTS = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
#: Plugins whose own dependencies clash with current versions of the rest.
APART = {"devinterp-transformerlens"}
pytestmark = [pytest.mark.slow, pytest.mark.wheels]


def interpreters() -> list[str]:
    """Return interpreters of Python 3.11 and later, one of each minor version: this one, those on the path, those of pyenv."""
    by_minor = {f"{sys.version_info.major}.{sys.version_info.minor}": sys.executable}
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in range(11, 15):
        version = f"3.{minor}"
        candidates = [shutil.which(f"python{version}"), *map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))]
        for candidate in filter(None, candidates):
            if (
                subprocess.run([candidate, "-c", "import venv, ensurepip"], capture_output=True, check=False).returncode
                == 0
            ):
                by_minor.setdefault(version, candidate)
    return [by_minor[version] for version in sorted(by_minor)]


def python(interpreter: Path, *arguments: object, folder: Path) -> str:
    """Run an interpreter outside of the repository, and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    command = [str(interpreter), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels of all projects."""
    folder = tmp_path_factory.mktemp("wheels")
    for project in PROJECTS:
        python(
            Path(sys.executable), "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, project, folder=folder
        )
    assert len(list(folder.glob("*.whl"))) == len(PROJECTS)
    return folder


@pytest.fixture(
    scope="module", params=interpreters(), ids=lambda path: Path(path).name + path.split("versions/")[-1][:4]
)
def clean(request: pytest.FixtureRequest, wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a clean environment with ``devinterp[all]``, from wheels."""
    folder = tmp_path_factory.mktemp("environment")
    python(Path(request.param), "-m", "venv", folder, folder=folder)
    interpreter = folder / "bin" / "python"
    [core] = wheels.glob("devinterp-*.whl")
    install = ["-m", "pip", "install", "-q", "--disable-pip-version-check", "-c", ROOT / "constraints.txt"]
    python(interpreter, *install, f"{core}[all]", "--find-links", wheels, folder=folder)
    return interpreter


def test_all_brings_every_plugin_and_nothing_clashes(clean: Path, tmp_path: Path) -> None:
    code = "from importlib.metadata import distributions as d; print(*sorted(f'{x.name}=={x.version}' for x in d()))"
    installed = dict(each.split("==") for each in python(clean, "-c", code, folder=tmp_path).split())
    for project in PROJECTS:
        declared = tomllib.loads((project / "pyproject.toml").read_text())["project"]
        if declared["name"] not in APART:
            assert installed[declared["name"]] == declared["version"]
    python(clean, "-m", "pip", "check", folder=tmp_path)


def test_the_doctor_finds_it_well(clean: Path, tmp_path: Path) -> None:
    report = python(clean, "-m", "devinterp", "doctor", folder=tmp_path)
    assert "Everything that is installed works." in report
    assert re.search(r"exactly [\d.]+: right", report)


def test_a_run_its_analyses_its_picture_and_its_page(clean: Path, tmp_path: Path) -> None:
    code = """
import torch, devinterp, pathlib
assert "site-packages" in devinterp.__file__
model = torch.nn.Sequential(torch.nn.Embedding(50, 8), torch.nn.Linear(8, 50)).eval()
data = torch.randint(50, (64, 12), generator=torch.Generator().manual_seed(0))
tree = devinterp.sample(model, data, {"rows": (data, 2)}, lr=1e-4, n_beta=20.0, localization=5.0, num_chains=2, num_draws=20,
                        batch_size=8, output_path="run.zarr", progress=False)
assert tree.slt.llc()["paired_llc_mean"].dims == ()
tree.slt.plot.trace().savefig("trace.png")
"""
    python(clean, "-c", code, folder=tmp_path)
    for arguments in (["llc", "run.zarr"], ["report", "run.zarr", "-o", "page.html"], ["bench", "--help"]):
        python(clean, "-m", "devinterp", *arguments, folder=tmp_path)
    assert (tmp_path / "trace.png").stat().st_size > 1000
    assert "<html" in (tmp_path / "page.html").read_text()


def test_a_plugin_is_not_put_beside_the_package_of_the_same_name(wheels: Path, tmp_path: Path) -> None:
    """Where only PyPI's `devinterp` can be had, pip refuses: no release of it is of a version that plugins take."""
    [plugin] = wheels.glob("devinterp_plots-*.whl")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--target",
        tmp_path / "site",
        plugin,
    ]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "devinterp<0.2,>=0.1.1" in done.stderr
