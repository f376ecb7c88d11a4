"""``tree.slt`` and ``tree.slt.plot``: lookup, signatures, requirements, representations, laziness, several runs."""

from __future__ import annotations

import copy
import inspect
import json
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

from devinterp.errors import InvalidInputError, MissingDataError, PluginError
from devinterp.testing import synthetic_tree
from support.installed import Install, analysis, plugin

TWO = """
Analysis(name="mean", compute=mean_loss, requires=("trace/loss",)),
Analysis(name="noise", compute=mean_loss, requires=("trace/loss", "metrics/noise_norm")),
"""
PLOT = 'Plot(name="curve", draw=mean_loss, requires=("observables/*/loss",))'


@pytest.fixture(autouse=True)
def _plugins(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("some-plugin", "1.2", {"some_plugin": plugin(TWO)})
    install("plot-plugin", "1.0", {"plot_plugin": plugin(PLOT, hook="devinterp_plots")})
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", "some-plugin,plot-plugin")


@pytest.fixture
def tree() -> xr.DataTree:
    return synthetic_tree(num_draws=6, num_chains=2)


def with_config(tree: xr.DataTree, **changes: object) -> xr.DataTree:
    tree = tree.copy()
    tree.attrs["config"] = json.dumps({**json.loads(tree.attrs["config"]), **changes})
    return tree


def siblings(**runs: xr.DataTree) -> xr.DataTree:
    return xr.DataTree(children=runs)


def test_a_method_is_the_authors_function(tree: xr.DataTree) -> None:
    method = tree.slt.mean
    assert str(inspect.signature(method)).startswith("(scale: float = 1.0, *, over: str = 'chain') -> x")
    assert method.__doc__.startswith("Mean of the losses of the trace.")
    assert (method.__name__, method.__qualname__, method.__module__) == ("mean", "slt.mean", "some_plugin")
    assert "return xr.Dataset" in inspect.getsource(method)
    expected = 2 * tree["trace/loss"].mean(["chain", "step", "batch", "position"])
    xr.testing.assert_equal(method(2.0)["mean"], expected)
    xr.testing.assert_equal(method(scale=2.0)["mean"], expected)
    with pytest.raises(TypeError, match="scael"):
        method(scael=2.0)


def test_completion(tree: xr.DataTree) -> None:
    assert {"mean", "noise", "plot"} <= set(dir(tree.slt))
    assert "curve" in dir(tree.slt.plot)
    assert not {"mean", "noise"} & set(dir(tree.slt.plot))


def test_an_unknown_name_is_an_attribute_error(tree: xr.DataTree) -> None:
    with pytest.raises(AttributeError) as caught:
        _ = tree.slt.maen
    assert str(caught.value) == "no analysis 'maen' is installed; did you mean 'mean'? Installed: mean, noise."
    with pytest.raises(AttributeError, match="no plot 'maen' is installed"):
        _ = tree.slt.plot.maen
    assert not hasattr(tree.slt, "_repr_png_")


def test_requirements_are_checked_when_called(tree: xr.DataTree) -> None:
    method = tree.slt.noise
    with pytest.raises(MissingDataError) as caught:
        method()
    assert (
        str(caught.value) == "`noise` needs `metrics/noise_norm`; this tree has none: sample with `save_metrics=True`."
    )
    plot = synthetic_tree(observables={}).slt.plot.curve
    with pytest.raises(
        MissingDataError, match=r"`plot\.curve` needs `observables/\*/loss`.*sample with `observables=`"
    ):
        plot()


def test_plots(tree: xr.DataTree) -> None:
    assert str(inspect.signature(tree.slt.plot.curve)).startswith("(scale: float = 1.0")
    assert tree.slt.plot.curve(scale=2.0)["mean"].dims == ("restriction",)
    two = siblings(a=tree, b=tree)
    with pytest.raises(
        InvalidInputError, match=r"there are 2: 'a', 'b'. Choose one, .*`tree\['a'\].slt.plot.curve\(\)`"
    ):
        two.slt.plot.curve()
    two["a"].slt.plot.curve()


def test_the_representations_say_what_can_be_asked(tree: xr.DataTree) -> None:
    assert repr(tree.slt) == (
        "Sampling run at '/'\n"
        "\n"
        "Analyses: tree.slt.<name>()\n"
        "  + mean   Mean of the losses of the trace.\n"
        "  - noise  needs metrics/noise_norm\n"
        "\n"
        "Plots: tree.slt.plot.<name>()\n"
        "  + curve  Mean of the losses of the trace."
    )
    assert "curve" in repr(tree.slt.plot)
    assert "noise" not in repr(tree.slt.plot)
    shown = tree.slt._repr_html_()
    for part in ("tree.slt.mean()", "needs metrics/noise_norm", "some-plugin 1.2", "tree.slt.plot.curve()"):
        assert part in shown
    assert "tree.slt.mean" not in tree.slt.plot._repr_html_()
    assert "&#x27;" in shown  # text is escaped
    assert "needs a sampling run" in repr(xr.DataTree().slt)
    assert repr(siblings(a=tree, b=tree).slt).startswith("2 sampling runs below '/': 'a', 'b'\n")


def test_a_plugin_error_is_shown_not_raised(
    install: Install, monkeypatch: pytest.MonkeyPatch, tree: xr.DataTree
) -> None:
    install("b-plugin", "1.0", {"b_plugin": analysis("mean")})
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", "some-plugin,b-plugin")
    assert "two analyses are named 'mean'" in repr(tree.slt)
    assert "two analyses are named" in tree.slt._repr_html_()
    assert "plot" in dir(tree.slt)
    with pytest.raises(PluginError, match="two analyses are named 'mean'"):
        _ = tree.slt.mean


def test_the_accessor_holds_the_tree_and_nothing_else(tree: xr.DataTree) -> None:
    assert not hasattr(tree.slt, "__dict__")
    assert copy.copy(tree.slt)._tree is tree
    tree.slt.mean()
    xr.testing.assert_identical(tree, synthetic_tree(num_draws=6, num_chains=2))


def test_nothing_is_computed(tree: xr.DataTree) -> None:
    def refuse(dsk: object, keys: object, **kwargs: object) -> None:
        raise AssertionError("something was computed")

    lazy = tree.chunk({"step": 2})
    both = siblings(a=with_config(lazy, lr=0.1), b=with_config(lazy, lr=0.2))
    with dask.config.set(scheduler=refuse):
        result = lazy.slt.mean()
        joined = both.slt.mean()
        repr(lazy.slt)
        lazy.slt._repr_html_()
    assert result["mean"].chunks is not None
    assert joined["mean"].chunks is not None
    xr.testing.assert_allclose(result.compute(), tree.slt.mean())
    xr.testing.assert_allclose(joined.isel(lr=0, drop=True).compute(), tree.slt.mean())


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="strings of numpy 2")
def test_a_tree_opened_lazily_from_a_store(tree: xr.DataTree, tmp_path: Path) -> None:
    stored = tree.copy()
    stored.coords["restriction"] = np.array(["full"], dtype=np.dtypes.StringDType())
    stored.to_zarr(tmp_path / "run.zarr", consolidated=False)
    opened = xr.open_datatree(tmp_path / "run.zarr", engine="zarr", chunks={}, consolidated=False)
    result = opened.slt.mean()
    assert result["mean"].chunks is not None
    np.testing.assert_allclose(result["mean"].values, tree.slt.mean()["mean"].values, rtol=1e-6)


@pytest.mark.parametrize("path", ["/trace", "/observables/train"])
def test_a_node_inside_a_run(tree: xr.DataTree, path: str) -> None:
    with pytest.raises(
        MissingDataError, match=rf"at or below '{path}': it lies inside the run at '/': call `mean` there"
    ):
        tree[path].slt.mean()


def test_a_tree_without_runs() -> None:
    with pytest.raises(
        MissingDataError, match=r"`mean` needs a sampling run; there is none at or below '/': open a store"
    ):
        xr.DataTree().slt.mean()


def test_one_run_below_is_not_joined(tree: xr.DataTree) -> None:
    xr.testing.assert_identical(siblings(a=tree).slt.mean(), tree.slt.mean())


def test_runs_that_differ_in_one_setting_are_joined_along_it(tree: xr.DataTree) -> None:
    # As a store lists them: by name, not by value. Where a run was written is no difference.
    runs = {f"step{n}": with_config(tree, checkpoint=n, output_path=f"out/{n}") for n in (1000, 200, 30)}
    for name, run in runs.items():
        run["trace/loss"] = run["trace/loss"] + int(name[4:])
    joined = siblings(**runs).slt.mean()
    assert joined["mean"].dims == ("checkpoint", "restriction")
    assert joined["checkpoint"].values.tolist() == [30, 200, 1000]
    for name, run in runs.items():
        expected = run.slt.mean()["mean"].values
        np.testing.assert_allclose(joined["mean"].sel(checkpoint=int(name[4:])).values, expected)


def test_words_keep_the_order_of_the_tree(tree: xr.DataTree) -> None:
    joined = siblings(
        b=with_config(tree, sampling_method="sgld"), a=with_config(tree, sampling_method="rmsprop_sgld")
    ).slt.mean()
    assert joined["sampling_method"].values.tolist() == ["sgld", "rmsprop_sgld"]


def test_runs_that_differ_in_more_are_joined_by_path(tree: xr.DataTree) -> None:
    grid = siblings(
        small=siblings(a=with_config(tree, lr=0.1, n_beta=1.0), b=with_config(tree, lr=0.2, n_beta=1.0)),
        big=with_config(tree, lr=0.1, n_beta=9.0, shuffle=False, sampling_method_kwargs={"a": 1}),
    )
    joined = grid.slt.mean()
    assert joined["run"].values.tolist() == ["small/a", "small/b", "big"]
    assert joined["lr"].to_dict()["data"] == [0.1, 0.2, 0.1]
    assert joined["lr"].dims == ("run",)
    assert set(joined.coords) == {"run", "lr", "n_beta", "restriction"}  # switches and mappings label nothing


@pytest.mark.parametrize("values", [(0.1, 0.1, 0.2), (None, 1, 2), ({"a": 1}, {"a": 2}, {"a": 3}), (True, False, 1)])
def test_settings_that_cannot_label_runs(tree: xr.DataTree, values: tuple[object, ...]) -> None:
    runs = {f"r{n}": with_config(tree, lr=value) for n, value in enumerate(values)}
    joined = siblings(**runs).slt.mean()
    assert joined["run"].values.tolist() == ["r0", "r1", "r2"]


def test_equal_runs_are_joined_by_path(tree: xr.DataTree) -> None:
    assert siblings(a=tree, b=tree).slt.mean()["run"].values.tolist() == ["a", "b"]


def test_runs_of_different_length_and_content() -> None:
    short, long = synthetic_tree(num_draws=4, num_chains=2), synthetic_tree(num_draws=6, num_chains=3, seed=1)
    joined = siblings(short=short, long=long).slt.mean(over="restriction")
    assert joined["mean"].sizes == {"run": 2, "chain": 3}
    assert np.isnan(joined["mean"].sel(run="short", chain=2))
    np.testing.assert_allclose(
        joined["mean"].sel(run="long").values, long.slt.mean(over="restriction")["mean"].values, rtol=1e-6
    )


def test_the_run_that_lacks_something_is_named(tree: xr.DataTree) -> None:
    with pytest.raises(MissingDataError, match=r"run 'b': `mean` needs `trace/loss`"):
        siblings(a=tree, b=xr.DataTree(xr.Dataset(attrs={"schema_version": 1}))).slt.mean()


OTHER_RESULTS = """
Analysis(name="array", compute=lambda tree: tree["trace/loss"].mean("step")),
Analysis(name="groups", compute=lambda tree: xr.DataTree.from_dict({
    "/": xr.Dataset(coords={"chain": tree["chain"]}, attrs={"about": "losses"}),
    "/all": xr.Dataset({"loss": tree["trace/loss"].mean("step")}),
})),
Analysis(name="own", compute=lambda tree: xr.Dataset({"x": ("lr", [1.0, 2.0])})),
"""


def test_arrays_and_trees_are_joined_too(install: Install, monkeypatch: pytest.MonkeyPatch, tree: xr.DataTree) -> None:
    install("c-plugin", "1.0", {"c_plugin": plugin(OTHER_RESULTS)})
    monkeypatch.setenv("DEVINTERP_LOAD_PLUGINS", "c-plugin")
    both = siblings(a=with_config(tree, lr=0.2), b=with_config(tree, lr=0.1))
    array = both.slt.array()
    assert isinstance(array, xr.DataArray)
    assert array.dims[0] == "lr"
    assert array["lr"].values.tolist() == [0.1, 0.2]
    groups = both.slt.groups()
    assert isinstance(groups, xr.DataTree)
    xr.testing.assert_identical(groups["all/loss"].drop_attrs(), array.rename("loss").drop_attrs())
    assert groups["lr"].values.tolist() == [0.1, 0.2]
    assert groups.attrs == {"about": "losses"}
    with pytest.raises(InvalidInputError, match=r"`own` for the runs 'a', 'b' cannot be joined .* 'lr' of their own"):
        both.slt.own()
