"""The project is what it says it is: metadata, entry points, pins, changelog, docstrings, packages that can be built."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from numpydoc.validate import validate
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import devinterp

ROOT = Path(__file__).parents[1]
PROJECTS = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
INSTALLED = {canonicalize_name(found.metadata["Name"]) for found in metadata.distributions()}


def project(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text())["project"]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(r.name): str(r.specifier).removeprefix("==") for r in requirements}


def test_the_version_is_one():
    assert devinterp.__version__ == metadata.version("devinterp") == project(ROOT)["version"]


def test_the_changelog_knows_every_release_and_fragments_have_the_right_names():
    text = (ROOT / "CHANGELOG.md").read_text()
    released = re.findall(r"^## (\d\S*)", text, re.MULTILINE)
    fragments = [path.name for path in (ROOT / "news").iterdir() if not path.name.startswith(".")]
    types = "feature|change|bugfix|doc|misc"
    for name in fragments:
        assert re.fullmatch(rf"(\d+|\+[\w-]+)\.({types})(\.\d+)?\.md", name), f"news/{name}"
        assert (ROOT / "news" / name).read_text().strip(), f"news/{name} is empty"
    # Either this version is in the changelog, or what it will say there lies in news/.
    assert project(ROOT)["version"] in released or fragments


def test_towncrier_can_write_the_changelog():
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "9.9.9"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert "## 9.9.9" in done.stdout


@pytest.mark.parametrize("root", PROJECTS, ids=lambda root: root.name)
def test_every_entry_point_resolves(root):
    declared = project(root)
    if canonicalize_name(declared["name"]) not in INSTALLED:
        pytest.skip(f"{declared['name']} is not installed: its dependencies are heavy")
    groups = {"console_scripts": declared.get("scripts", {}), **declared.get("entry-points", {})}
    distribution = metadata.distribution(declared["name"])
    for group, points in groups.items():
        found = {point.name: point for point in distribution.entry_points if point.group == group}
        assert {name: point.value for name, point in found.items()} == points, "reinstall: entry points have changed"
        for point in found.values():
            assert point.load() is not None


@pytest.mark.parametrize("root", PROJECTS, ids=lambda root: root.name)
def test_a_wheel_can_be_built_and_is_typed(root, tmp_path):
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(root)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (info,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        text = archive.read(info).decode()
    assert any(name.endswith("/py.typed") for name in names)
    assert not [name for name in names if "test_" in Path(name).name or "__pycache__" in name]
    assert f"Version: {project(root)['version']}" in text
    assert "License-Expression: MIT" in text
    if root == ROOT:
        assert any(name.endswith("licenses/LICENSE") for name in names)


def test_every_requirement_is_pinned_within_its_range():
    pinned = pins()
    local = {canonicalize_name(project(root)["name"]) for root in PROJECTS}
    light = [root for root in PROJECTS if canonicalize_name(project(root)["name"]) in INSTALLED]
    for root in light:
        declared = project(root)
        wanted = [
            *declared["dependencies"],
            *(r for extra in declared.get("optional-dependencies", {}).values() for r in extra),
        ]
        for text in wanted:
            requirement = Requirement(text)
            name = canonicalize_name(requirement.name)
            if name in local:
                continue
            assert name in pinned, f"constraints.txt does not pin {name}"
            assert requirement.specifier.contains(pinned[name]), f"{text}, pinned to {pinned[name]}"


def test_the_package_itself_needs_ranges_only():
    for text in project(ROOT)["dependencies"]:
        assert {specifier.operator for specifier in Requirement(text).specifier} == {">="}, text


def test_imports_point_upwards():
    """The contracts of pyproject.toml hold (also part of `make lint`)."""
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_no_layer_is_forgotten():
    """A module that is in no row of the import contract would be free to import anything."""
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    named = {name for layer in contract["layers"] for name in re.findall(r"\w+", layer)}
    have = {module.name for module in pkgutil.iter_modules(devinterp.__path__)}
    assert have <= named, f"add {have - named} to a layer of [tool.importlinter]"


def public_objects() -> list[str]:
    """Import paths of every public module's public functions and classes, defined in it."""
    found = []
    for module in pkgutil.walk_packages(devinterp.__path__, "devinterp."):
        if any(part.startswith("_") for part in module.name.split(".")):
            continue
        namespace = vars(importlib.import_module(module.name))
        found += [
            f"{module.name}.{name}"
            for name, value in namespace.items()
            if not name.startswith("_")
            and (inspect.isclass(value) or inspect.isfunction(value))
            and value.__module__ == module.name
            and not hasattr(value, "__signature__")  # made from another function, whose docstring it borrows
        ]
    return found


def test_docstrings_describe_parameters_that_exist():
    """PR02 of numpydoc, on the real signatures: its linter reads source, and takes every dataclass for a class without any."""
    wrong = {}
    objects = public_objects()
    assert len(objects) > 50
    for path in objects:
        errors = [message for code, message in validate(path)["errors"] if code == "PR02"]
        if errors:
            wrong[path] = errors
    assert not wrong


def test_no_module_imports_a_private_name_of_another() -> None:
    private = []
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "plugins").glob("*/src/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("devinterp"):
                names = [alias.name for alias in node.names if re.match(r"_[^_]", alias.name)]
                private += [f"{path.relative_to(ROOT)}: {node.module}.{name}" for name in names]
    assert not private
