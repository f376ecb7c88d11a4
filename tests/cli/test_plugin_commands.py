"""Commands that plugins add, and plugins from a directory, on the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import devinterp
from devinterp.plugins import discovery
from support.installed import Install, analysis, plugin

Run = Callable[..., tuple[int, str, str]]

GREET = '''
from devinterp import Command, hookimpl

def hello(name: str, *, num_times: int = 1) -> None:
    """Say hello.

    Parameters
    ----------
    num_times : int
        How often.
    """
    print(num_times * f"hello {name};")

@hookimpl
def devinterp_commands():
    return [Command("say_hello", "greet:hello", "Say hello to somebody.")]
'''


def commands(objects: str) -> str:
    """Return the source of a plugin with these commands."""
    return plugin(objects, hook="devinterp_commands")


@pytest.fixture
def _greet(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("greet-plugin", "1.2", {"greet": GREET})
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", "devinterp:llc,greet-plugin")


@pytest.mark.usefixtures("_greet")
def test_a_command_of_a_plugin(run: Run) -> None:
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert "say-hello (say_hello)  Say hello to somebody." in out
    for name in ("say-hello", "say_hello"):
        assert run(name, "you", "--num-times", "2") == (0, "hello you;hello you;\n", "")
    _, out, _ = run("say-hello", "--help")
    assert "How often. [default: 1]" in out
    _, out, _ = run("plugins")
    assert "commands: say_hello" in out
    code, _, err = run("say-helo")
    assert code == 2
    assert "did you mean 'say-hello'?" in err


@pytest.mark.usefixtures("_greet")
def test_a_command_that_is_left_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", "devinterp")
    assert "say-hello" not in run("--help")[1]
    code, _, err = run("say-hello", "you")
    assert code == 2
    assert "there is no command 'say-hello'" in err


@pytest.mark.parametrize(
    ("function", "reason"),
    [("no_such_module:f", "No module named 'no_such_module'"), ("broken_command:f", "has no attribute 'f'")],
)
def test_a_command_that_cannot_be_imported(
    run: Run, install: Install, monkeypatch: pytest.MonkeyPatch, function: str, reason: str
) -> None:
    install("broken-plugin", "0.1", {"broken_command": commands(f"Command('greet', '{function}', 'Say hello.')")})
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", "broken-plugin")
    assert "Say hello." in run("--help")[1]
    code, out, err = run("greet")
    assert (code, out) == (2, "")
    assert f"error: `devinterp greet` of broken-plugin 0.1 cannot be imported from {function}: " in err
    assert reason in err


@pytest.mark.usefixtures("_greet")
@pytest.mark.filterwarnings("default::devinterp.PluginWarning")
def test_a_hook_that_fails_leaves_the_other_commands(
    run: Run, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("bad-plugin", "0.1", {"bad_plugin": commands("1 / 0")})
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", "greet-plugin,bad-plugin")
    code, out, err = run("say-hello", "you")
    assert (code, out) == (0, "hello you;\n")
    assert err == (
        "warning: plugin 'bad_plugin' (bad_plugin) of bad-plugin 0.1 is left out: its hook `devinterp_commands` failed: "
        "ZeroDivisionError: division by zero.\n"
    )


@pytest.mark.usefixtures("_greet")
def test_a_clash_is_said_and_the_package_s_own_commands_work(
    run: Run, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("b-plugin", "2.0", {"b_plugin": analysis("say_hello")})
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", "greet-plugin,b-plugin")
    code, _, err = run("say-hello", "you")
    assert code == 2
    assert "an analysis and a command are named 'say_hello': one of b-plugin 2.0" in err
    assert "one of greet-plugin 1.2" in err
    assert run("plugins")[0] == 0


def test_bench_says_which_package_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_bench(group: str) -> list[object]:
        return [point for point in entry_points(group=group) if point.dist.name != "devinterp-bench"]

    monkeypatch.setattr(discovery, "entry_points", without_bench)
    code, out, err = run("bench", "accuracy")
    assert (code, out) == (2, "")
    assert err == (
        "error: `devinterp bench` is a command of the package devinterp-bench, which is not installed: "
        "`pip install -e plugins/devinterp-bench` in this project's repository.\n"
    )


@pytest.mark.filterwarnings("default::devinterp.PluginWarning")
def test_bench_says_why_its_package_is_not_loaded(run: Run, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("devinterp-bench", "9", {"fake_bench": "raise RuntimeError('no such luck')\n"})
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", "fake_bench")
    _, _, err = run("bench")
    assert (
        "`devinterp bench` is a command of devinterp-bench 9, which is not loaded: RuntimeError: no such luck." in err
    )
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", "-devinterp-bench")
    devinterp.plugins.reset()
    assert "which is not loaded: it is left out by DEVINTERP_LOAD_PLUGINS." in run("bench")[2]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory with one plugin for each of two hooks."""
    path = tmp_path / "my_plugins"
    path.mkdir()
    (path / "local_mean.py").write_text(analysis("mean"))
    (path / "greet.py").write_text(GREET)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield path
    for name in ("local_mean", "greet"):
        sys.modules.pop(name, None)


def test_plugins_of_a_directory(run: Run, store: Path, folder: Path) -> None:
    code, out, err = run("--plugins-dir", folder, "mean", store)
    assert (code, err) == (0, "")
    assert f"{float(devinterp.open(store)['trace/loss'][0].mean()):.5g}" in out
    assert run(f"--plugins-dir={folder}", "say-hello", "you") == (0, "hello you;\n", "")
    _, out, _ = run("--plugins-dir", folder, "--help")
    assert "Say hello to somebody." in out
    _, out, _ = run("--plugins-dir", folder, "plugins")
    assert "local_mean.py" in out
    assert "analyses: mean" in out
    # It is for one call only.
    assert "DEVINTERP_PLUGINS_DIR" not in os.environ
    assert run("mean", store)[0] == 2


def test_the_directory_of_the_environment(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEVINTERP_PLUGINS_DIR", str(folder))
    assert run("say-hello", "you") == (0, "hello you;\n", "")
    (folder / "empty").mkdir()
    assert run("--plugins-dir", folder / "empty", "say-hello", "you")[0] == 2
    assert os.environ["DEVINTERP_PLUGINS_DIR"] == str(folder)
    assert run("say-hello", "you")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "got"), [(["--plugins-dir"], "''"), (["--plugins-dir", "nowhere", "plugins"], "'nowhere'")]
)
def test_a_directory_that_is_not_there(run: Run, arguments: list[str], got: str) -> None:
    message = f"error: `--plugins-dir` must be followed by a directory with plugins, got {got}.\n"
    assert run(*arguments) == (2, "", message)
