"""Plugins that are files of a directory, as a notebook has them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from devinterp import plugins
from devinterp.errors import PluginError, PluginWarning
from devinterp.testing import synthetic_tree
from support.installed import Install, analysis, plugin


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that ``DEVINTERP_PLUGINS_DIR`` names; built-in plugins are left out."""
    folder = tmp_path / "my_plugins"
    folder.mkdir()
    monkeypatch.setenv("DEVINTERP_PLUGINS_DIR", str(folder))
    installed = {row.provider.distribution for row in plugins.listing() if row.provider.distribution}
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", ",".join(f"-{name}" for name in sorted(installed)))
    plugins.reset()
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield folder
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder)):
            del sys.modules[name]


def test_a_file_is_a_plugin(directory: Path) -> None:
    (directory / "local_mean.py").write_text(analysis("mean"))
    tree = synthetic_tree()
    assert float(tree.slt.mean(scale=2.0)["mean"].squeeze()) == pytest.approx(2 * float(tree["trace/loss"].mean()))
    assert str(plugins.provider(plugins.analyses()["mean"])) == f"local_mean.py in {directory}"
    [row] = [row for row in plugins.listing() if row.status == plugins.LOADED]
    assert (row.module, row.provider.entry_point, row.provides) == ("local_mean", "local_mean", {"analyses": ("mean",)})


def test_what_of_a_directory_is_loaded(directory: Path) -> None:
    """Modules and packages, which may import each other; what begins with an underscore or a dot is for them alone."""
    package = directory / "local_package"
    package.mkdir()
    (package / "__init__.py").write_text(plugin("Analysis(NAME, mean_loss)", before="from _local_names import NAME"))
    (directory / "_local_names.py").write_text("NAME = 'named'\n")
    (directory / ".local_hidden.py").write_text("raise RuntimeError\n")
    (directory / "notes.txt").write_text("no module")
    (directory / "no_package").mkdir()
    assert list(plugins.analyses()) == ["named"]


def test_one_broken_file_leaves_the_others(directory: Path) -> None:
    (directory / "local_broken.py").write_text("raise RuntimeError('no such luck')\n")
    (directory / "local_working.py").write_text(analysis("mean"))
    message = (
        r"plugin 'local_broken' \(local_broken\) of local_broken\.py in .*my_plugins cannot be loaded: RuntimeError"
    )
    with pytest.warns(PluginWarning, match=message):
        assert list(plugins.analyses()) == ["mean"]


def test_a_file_must_not_hide_a_module(directory: Path) -> None:
    """Else `import fractions`, in whatever comes next, would import the plugin."""
    (directory / "fractions.py").write_text(analysis("mean"))
    with pytest.warns(
        PluginWarning, match=r"my_plugins/fractions\.py would hide the module 'fractions' .*another name"
    ):
        assert plugins.analyses() == {}


def test_names_are_refused_and_blocked_as_those_of_packages(
    directory: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    (directory / "local_mean.py").write_text(analysis("mean"))
    install("some-plugin", "1.0", {"some_plugin": analysis("mean")})
    with pytest.raises(PluginError, match=r"one of some-plugin 1\.0 .* and one of local_mean\.py in .*my_plugins"):
        plugins.analyses()
    for listed, provider in {"some-plugin": "some-plugin 1.0", "local_mean": f"local_mean.py in {directory}"}.items():
        plugins.reset()
        monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", listed)
        assert str(plugins.provider(plugins.analyses()["mean"])) == provider
    plugins.reset()
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", "some-plugin,-local_mean.py")
    assert len(plugins.analyses()) == 1


def test_a_directory_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEVINTERP_PLUGINS_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(PluginError, match=r"DEVINTERP_PLUGINS_DIR \(='.*/nowhere'\) must be a directory with plugins"):
        plugins.analyses()
