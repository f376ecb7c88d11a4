"""The command line: what it prints, what it writes, how it fails."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import devinterp
from devinterp.analyses.common.uncertainty import confidence_interval
from devinterp.analyses.llc import compute_llc
from devinterp.testing import synthetic_tree
from support.installed import Install, analysis, plugin
from support.written_trees import write

Run = Callable[..., tuple[int, str, str]]

MEAN = "devinterp:llc,some-plugin"


@pytest.fixture(autouse=True)
def _plugins(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("some-plugin", "1.2", {"some_plugin": analysis("mean")})
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", MEAN)


def cells(printed: str) -> list[list[str]]:
    """Return the rows of the tables in what was printed."""
    lines = [line for line in printed.splitlines() if line[:1] in ("│", "┃")]
    return [[cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in lines]


def test_help_lists_commands_and_analyses(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    for word in ("info", "masks", "plugins", "quickstart", "sample", "Analyses of a store", "llc", "mean"):
        assert word in out
    assert "Compute the local learning coefficient of a run" in out  # without its citation [1]_


@pytest.mark.parametrize("arguments", [["--help"], ["llc", "--help"], ["plugins"]])
def test_help_imports_nothing_heavy(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.delenv("DEVINTERP_LOAD_PLUGINS")
    code = (
        "import sys, devinterp.cli; status = devinterp.cli.run(sys.argv[1:]);"
        "print([m for m in ('torch', 'transformers', 'zarr', 'matplotlib') if m in sys.modules]); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "program", [[Path(sys.executable).with_name("devinterp")], [sys.executable, "-m", "devinterp"]]
)
def test_the_console_script(program: list[str | Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEVINTERP_LOAD_PLUGINS")
    done = subprocess.run([*program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == devinterp.__version__
    done = subprocess.run([*program, "no-such-command"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "error: there is no command 'no-such-command'" in done.stderr


def test_options_come_from_signature_and_docstring(run: Run) -> None:
    code, out, _ = run("mean", "--help")
    assert code == 0
    for text in (
        "Mean of the losses of the trace.",
        "Path or URL of the store",
        "--scale FLOAT",
        "What to multiply it by. [default: 1.0]",
        "--over STR",
        "--output -o PATH",
        "--group STR",
    ):
        assert text in out
    assert "--tree" not in out


def test_an_analysis_of_a_store(run: Run, store: Path) -> None:
    code, out, err = run("mean", store, "--scale", "10")
    assert (code, err) == (0, "")
    expected = 10 * devinterp.open(store).slt.mean()["mean"]
    assert cells(out) == [["restriction", "full", "part1"], ["mean", *(f"{each:.5g}" for each in expected.values)]]


def test_the_llc_of_a_store(run: Run, store: Path, tmp_path: Path) -> None:
    output = tmp_path / "results" / "llc.zarr"
    code, out, err = run("llc", store, "--burnin", 6, "-o", output)
    assert (code, err) == (0, "")
    expected = compute_llc(devinterp.open(store), burnin=6)
    shown = {row[0]: row[1:3] for row in cells(out)}
    assert list(shown)[:2] == ["", "full · paired"]
    for number, name in enumerate(("full", "part1")):
        one = expected.isel(restriction=number)
        for label, prefix in (("paired", "paired_"), ("minibatches", "")):
            mean, error = (float(one[f"{prefix}llc_{what}"]) for what in ("mean", "se"))
            assert shown[f"{name} · {label}"] == [f"{mean:.5g}", f"{error:.2g}"]
        for observable in one["observable"].values:
            value = float(one["observable_llc_mean"].sel(observable=observable))
            assert shown[f"{name} · {observable}"][0] == f"{value:.5g}"
    assert "paired_llc_mean: paired; llc_mean: minibatches; observable_llc_mean: code, train" in out
    assert "loss_trace" in out
    written = xr.open_dataset(output, engine="zarr")
    assert set(written.data_vars) == set(expected.data_vars)
    np.testing.assert_allclose(written["llc_mean"], expected["llc_mean"], rtol=1e-6)
    assert written.attrs["burnin"] == 6


@pytest.mark.parametrize(
    "changes",
    [
        {"num_draws": 5, "num_chains": 2},  # short enough for every step to fit into a table
        {"num_draws": 20, "num_chains": 16},
        {"num_draws": 20, "num_restrictions": 60, "observables": {}},
        {"num_draws": 20, "num_restrictions": 4},
        {"num_draws": 3, "num_chains": 1},
    ],
    ids=str,
)
def test_the_llc_is_one_screen(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    tree = synthetic_tree(**changes)
    code, out, _ = run("llc", write(tree, tmp_path / "run.zarr"))
    assert code == 0
    lines = out.splitlines()
    assert len(lines) <= 24
    assert all(len(line) <= 80 for line in lines)
    assert "step" not in " ".join(row[0] for row in cells(out))
    first = cells(out)[1]
    result = compute_llc(tree)
    assert first[0].endswith("paired")
    assert first[1] == f"{float(np.ravel(result['paired_llc_mean'])[0]):.5g}"
    interval = confidence_interval(result, "paired_llc_mean")
    lower, upper = (float(np.ravel(interval[name])[0]) for name in ("lower", "upper"))
    assert first[3] == ("-" if np.isnan(lower) else f"{lower:.4g} to {upper:.4g}")
    if np.isnan(lower):
        assert "no error: 1 chain(s) of 3 draws are too few" in out


def test_the_llc_of_a_run_without_losses_at_w0(run: Run, tmp_path: Path) -> None:
    tree = synthetic_tree(row_losses=False)
    _, out, _ = run("llc", write(tree, tmp_path / "run.zarr"))
    assert "paired" not in out
    assert cells(out)[1][:2] == ["minibatches", f"{float(compute_llc(tree)['llc_mean']):.5g}"]


def test_the_llc_of_several_runs(run: Run, sweep: Path) -> None:
    code, out, _ = run("llc", sweep)
    assert code == 0
    expected = devinterp.open(sweep).slt.llc()
    shown = {row[0]: row[1] for row in cells(out)}
    for lr, mean in zip(expected["lr"].values, expected["paired_llc_mean"].values, strict=True):
        assert shown[f"{lr} · paired"] == f"{mean:.5g}"


def test_of_what_varies_along_a_chain_only_the_shape_is_shown(
    run: Run, store: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "Analysis('path', lambda tree: tree['trace/loss'].mean(['restriction', 'batch', 'position']))"
    install("path-plugin", "1.0", {"path_plugin": plugin(source)})
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", "path-plugin")
    _, out, _ = run("path", store)
    assert not cells(out)
    assert "chain 3 × step 12" in out


def test_single_numbers(run: Run, store: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("flat-plugin", "1.0", {"flat_plugin": plugin("Analysis('flat', lambda tree: tree['trace/loss'].mean())")})
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", "flat-plugin")
    code, out, _ = run("flat", store)
    assert code == 0
    assert cells(out) == [["loss", f"{float(devinterp.open(store)['trace/loss'].mean()):.5g}"]]


TREES = """
Analysis("groups", lambda tree: xr.DataTree.from_dict({
    "/a": tree["trace"].to_dataset().mean(), "/b": tree["trace"].to_dataset().max()
})),
Analysis("array", lambda tree: tree["trace/loss"].mean(["chain", "step"])),
"""


def test_trees_and_arrays_are_shown_and_written(
    run: Run, store: Path, tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("tree-plugin", "1.0", {"tree_plugin": plugin(TREES)})
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", "tree-plugin")
    code, out, _ = run("groups", store, "-o", tmp_path / "groups.zarr")
    assert code == 0
    losses = devinterp.open(store)["trace/loss"].compute()
    assert ["loss", f"{float(losses.mean()):.5g}"] in cells(out)
    assert ["loss", f"{float(losses.max()):.5g}"] in cells(out)
    written = xr.open_datatree(tmp_path / "groups.zarr", engine="zarr")
    np.testing.assert_allclose(float(written["b/loss"]), float(losses.max()))
    code, out, _ = run("array", store, "-o", tmp_path / "array.zarr")
    assert code == 0
    assert "loss: restriction 2 × batch 4 × position 8, float32" in out
    written_array = xr.open_dataset(tmp_path / "array.zarr", engine="zarr")["loss"]
    np.testing.assert_allclose(written_array, losses.mean(["chain", "step"]), rtol=1e-6)
    assert written_array["restriction"].values.tolist() == ["full", "part1"]


SHAPES = """
Analysis("shapes", lambda tree: xr.Dataset({
    "matrix": (("row", "column"), np.arange(12).reshape(4, 3)),
    "long": ("place", np.arange(9) / 4),
    "wide": (("row", "place"), np.arange(36).reshape(4, 9)),
    "large": (("place", "other"), np.zeros((9, 9))),
    "cube": (("a", "b", "c"), np.zeros((1, 1, 1))),
}, coords={"row": list("wxyz"), "column": [10, 20, 30]})),
"""


def test_results_of_any_shape(run: Run, store: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("shape-plugin", "1.0", {"shape_plugin": plugin(SHAPES, before="import numpy as np")})
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", "shape-plugin")
    code, out, err = run("shapes", store)
    assert (code, err) == (0, "")
    rows = cells(out)
    assert rows[:5] == [
        ["row · column", "10", "20", "30"],
        *([c, *map(str, range(i, i + 3))] for c, i in zip("wxyz", (0, 3, 6, 9), strict=True)),
    ]
    assert rows[5:15] == [["place", "long"], *([str(n), f"{n / 4:.5g}"] for n in range(9))]
    assert rows[15:17] == [["row · place", "wide"], ["w · 0", "0"]]
    assert len(rows) == 15 + 37
    assert "large: place 9 × other 9, float64" in out
    assert "cube: a 1 × b 1 × c 1, float64" in out


def test_several_runs(run: Run, sweep: Path) -> None:
    code, out, _ = run("mean", sweep)
    assert code == 0
    assert [row[0] for row in cells(out)] == ["lr · restriction", "0.02", "0.1"]
    code, out, _ = run("mean", sweep, "--group", "lr0.1")
    assert code == 0
    assert cells(out)[0] == ["restriction", "full"]
    assert len(cells(out)) == 2


def test_types_of_options(run: Run, store: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    source = """
from __future__ import annotations
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal
import xarray as xr
from devinterp import Analysis, hookimpl
if TYPE_CHECKING:
    from nowhere import Unknown

def show(tree: xr.DataTree, required: int, *, maybe: int | None = None, word: Literal["a", "b"] = "a",
         names: tuple[str, ...] = (), one_or_more: str | Sequence[str] = "x", span: tuple[int, int] | None = None,
         flag: bool = False, low: float = 0.0, high: float = 1.0, hidden: Callable[[int], int] | None = None,
         other: xr.DataTree | None = None, unknown: Unknown = 3, output: str = "author's own",
         **more: object) -> xr.Dataset:
    '''Show options.

    Parameters
    ----------
    low, high : float
        Both ends.
    '''
    got = required, maybe, word, names, one_or_more, span, flag, low, high, hidden, other, unknown, output
    return xr.Dataset(attrs={"got": repr(got)})

@hookimpl
def devinterp_analyses():
    return [Analysis("show", show)]
"""
    install("type-plugin", "1.0", {"type_plugin": source})
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", "type-plugin")
    code, out, err = run("show", store, "--required", 7)
    assert (code, err) == (0, "")
    assert """got=(7, None, 'a', (), 'x', None, False, 0.0, 1.0, None, None, 3, "author's own")""" in out.replace(
        "\n", ""
    )
    words = "--required 7 --maybe 3 --word b --names p --names q --one-or-more y --span 1 2 --flag --high 2 --unknown 5"
    code, out, err = run("show", store, *words.split(), "--output", "o")
    assert (code, err) == (0, "")
    assert "got=(7, 3, 'b', ('p', 'q'), ['y'], (1, 2), True, 0.0, 2.0, None, None, 5, 'o')" in out.replace("\n", "")
    _, out, _ = run("show", "--help")
    assert out.count("Both ends.") == 2
    assert "hidden" not in out
    assert "--other" not in out
    code, _, err = run("show", store)
    assert code == 2
    assert "--required" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mean", "{missing}"], "error: cannot open {missing}"),
        (["mean", "{store}", "--scale", "many"], 'Invalid value for --scale: unable to convert "many" into float'),
        (["mean"], "parameter STORE requires an argument"),
        (["maen", "{store}"], "error: there is no command 'maen'; did you mean 'mean'? Known: "),
        (["llc", "{broken}"], "error: `llc` needs finished chains"),
        (["llc", "{store}", "--burnin", "100"], "error: `burnin` (=100)"),
        (["mean", "{store}", "-o", "{store}"], "exists: remove it or choose another name"),
        (["mean", "{store}", "-o", "result.nc"], "error: `--output` (='result.nc') must end in '.zarr'"),
        (["info", "{missing}"], "error: cannot open {missing}"),
        (
            ["mean", "{store}", "--group", "nowhere"],
            "error: cannot open {store} as a store: KeyError: \"'nowhere' not found",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    run: Run, store: Path, broken_store: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    names = {"store": store, "broken": broken_store, "missing": tmp_path / "missing.zarr"}
    code, out, err = run(*(each.format(**names) for each in arguments))
    assert code == 2
    assert out == ""
    assert message.format(**names) in err
    assert "Traceback" not in err


def test_nothing_is_written_when_an_analysis_fails(run: Run, broken_store: Path, tmp_path: Path) -> None:
    assert run("llc", broken_store, "-o", tmp_path / "out.zarr")[0] == 2
    assert not (tmp_path / "out.zarr").exists()
    code, out, _ = run("llc", broken_store, "--chains", "finished")
    assert code == 0
    assert "chains_used=[0, 2]" in out


def test_a_bug_shows_where_it_is(run: Run, store: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("bug-plugin", "1.0", {"bug_plugin": plugin("Analysis('bug', lambda tree: tree['trace/loss'] / None)")})
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", "bug-plugin")
    code, _, err = run("bug", store)
    assert code == 1
    assert "Traceback" in err
    assert "bug_plugin.py" in err


def test_info(run: Run, store: Path, broken_store: Path, sweep: Path) -> None:
    code, out, err = run("info", store)
    assert (code, err) == (0, "")
    rows = cells(out)
    assert ["n_beta", "20.0"] in rows
    assert ["trace/loss", "restriction 2 × chain 3 × step 12 × batch 4 × position 8", "float32", "9.22 kB"] in rows
    assert ["part1", "finished 12", "finished 12", "finished 12"] in rows
    assert ["mean", "Mean of the losses of the trace.", "some-plugin 1.2"] in rows
    assert "1 sampling run, " in out

    _, out, _ = run("info", broken_store)
    assert ["full", "finished 8", "diverged 4", "finished 8"] in cells(out)
    assert "full, chain 1: loss became nan at step 4" in out

    _, out, _ = run("info", sweep)
    assert "2 sampling runs" in out
    assert ["lr", "0.1"] in cells(out)
    assert ["lr", "0.02"] in cells(out)


def test_info_says_what_is_missing(run: Run, store: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    source = plugin("Analysis('noise', mean_loss, requires=('metrics/noise_norm',))")
    install("noise-plugin", "1.0", {"noise_plugin": source})
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", "noise-plugin")
    code, out, _ = run("info", store)
    assert code == 0
    assert ["noise", "needs metrics/noise_norm", "noise-plugin 1.0"] in cells(out)
    code, _, err = run("noise", store)
    assert code == 2
    assert "`noise` needs `metrics/noise_norm`; this tree has none: sample with `save_metrics=True`" in err


@pytest.mark.filterwarnings("ignore:Failed to open Zarr store with consolidated metadata")
def test_info_of_a_run_without_losses(run: Run, tmp_path: Path) -> None:
    bare = xr.DataTree(xr.Dataset({"x": ("i", [1.0, 2.0])}, attrs={"schema_version": 1}))
    bare.to_zarr(tmp_path / "bare.zarr", consolidated=False)
    code, out, err = run("info", tmp_path / "bare.zarr")
    assert (code, err) == (0, "")
    assert "no status recorded" in out
    assert ["mean", "needs trace/loss", "some-plugin 1.2"] in cells(out)


def test_plugins(run: Run, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("bad-plugin", "0.1", {"bad_plugin": "raise RuntimeError('no such luck')\n"})
    install("typo-plugin", "0.2", {"typo_plugin": plugin(hook="devinterp_analysis")})
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", f"{MEAN},bad-plugin,typo-plugin")
    code, out, err = run("plugins")
    assert code == 0
    rows = {(row[0], row[2]): row for row in cells(out)}
    assert rows["some-plugin", "some_plugin = some_plugin"][1:] == [
        "1.2",
        "some_plugin = some_plugin",
        "analyses: mean",
    ]
    assert "broken: RuntimeError: no such luck" in rows["bad-plugin", "bad_plugin = bad_plugin"][3]
    assert "`devinterp_analysis` is no hook" in rows["typo-plugin", "typo_plugin = typo_plugin"][3]
    assert "DEVINTERP_LOAD_PLUGINS" in rows["devinterp", "sgld = devinterp.kernels.sgld"][3]
    assert "analyses: llc" in rows["devinterp", "llc = devinterp.analyses.llc"][3]

    code, _, err = run("mean", "anywhere")  # the plugins do not work, and that is what must be said
    assert code == 2
    assert "typo-plugin 0.2 implements `devinterp_analysis`, which is no hook" in err


@pytest.mark.filterwarnings("default::devinterp.PluginWarning")
def test_a_broken_plugin_is_one_line(run: Run, store: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("bad-plugin", "0.1", {"bad_plugin": "raise RuntimeError('no such [luck]')\n"})
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", f"{MEAN},bad-plugin")
    code, _, err = run("mean", store)
    assert code == 0
    assert err == (
        "warning: plugin 'bad_plugin' (bad_plugin) of bad-plugin 0.1 cannot be loaded: RuntimeError: no such [luck].\n"
    )


def test_a_result_too_large_to_show_is_not_computed(
    run: Run, store: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = plugin(
        "Analysis('big', lambda tree: xr.Dataset({'x': ('i', dask.array.map_blocks(refuse, chunks=((1000,),), dtype=float))}))",
        before="""
import dask.array
def refuse(block_info=None):
    raise AssertionError("it was computed")
""",
    )
    install("big-plugin", "1.0", {"big_plugin": source})
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", "big-plugin")
    code, out, err = run("big", store)
    assert (code, err) == (0, "")
    assert "x: i 1000, float64" in out
