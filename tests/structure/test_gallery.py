"""The gallery of the documentation: its scripts are short, and what it says of their pictures holds."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("devinterp_structure", reason="devinterp-structure is not installed")
pytest.importorskip("devinterp_plots", reason="devinterp-plots is not installed")
import xarray as xr

from devinterp_structure import essential_dynamics, plots

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SCRIPTS = sorted(EXAMPLES.glob("gallery_*.py"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def run(name: str) -> dict[str, Any]:
        names = runpy.run_path(str(EXAMPLES / f"gallery_{name}.py"))
        assert [path.name for path in tmp_path.glob("*.png")] == [f"{name}.png"]
        return names

    return run


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_scripts_are_short_and_in_the_gallery(script: Path):
    assert len(script.read_text().splitlines()) < 40
    page = (EXAMPLES.parent / "gallery.md").read_text()
    assert f"examples/{script.name}" in page
    assert f"images/gallery/{script.stem.removeprefix('gallery_')}.png" in page


@pytest.mark.heavy
def test_the_path_turns_where_copying_is_learnt(run):
    names = run("essential_dynamics")
    result = names["result"]
    assert float(result["explained_variance_ratio"][:2].sum()) > 0.9
    assert abs(names["sharpest"] - 110) <= 15
    for smoothing in (1.5, 3.0, 4.0):  # it stays where it is
        again = essential_dynamics(names["outputs"], smoothing=smoothing).sel(plane="1,2")
        assert abs(abs(again["curvature"]).sel(checkpoint=slice(60, 150)).idxmax("checkpoint") - 110) <= 15


@pytest.mark.slow
def test_copied_texts_share_what_random_ones_do_not(run):
    result = run("loss_kernel")["result"]
    mean, error = result["group_mean"], result["group_mean_se"]
    for first in ("copied once", "copied thrice"):
        at = {"group": first}
        for second in ("copied once", "copied thrice"):
            within = {**at, "other_group": second}
            assert mean.sel(within) > 4 * error.sel(within)
        across = {**at, "other_group": "random"}
        assert mean.sel(across) < -2 * error.sel(across)


@pytest.mark.slow
def test_heads_have_stable_clusters(run):
    result = run("refined_llc")["result"]
    assert float(result["stability"]) > 0.9
    assert result["cluster"].sel(restriction="l1h3") != result["cluster"].sel(restriction="l1h0")
    assert int((result["cluster"] == 0).sum()) == 7


@pytest.mark.slow
def test_copied_tokens_part_from_the_others_while_the_model_learns(run, capsys):
    pytest.importorskip("umap", reason="umap-learn is not installed")
    run("embryology")
    apart = [abs(float(line.split(":")[1].split("±")[0]) - 0.5) for line in capsys.readouterr().out.splitlines()]
    before, during, after = apart
    assert before < 0.1
    assert before < during < after
    assert after > 0.25


def texts_of(figure: Any) -> set[str]:
    return {text.get_text() for ax in figure.axes for text in ax.texts}


def test_the_picture_of_a_path_names_its_vertices_and_cusps():
    time = np.linspace(-1, 1.1, 43)
    curve = np.stack([time**2, time**3], axis=1)
    outputs = xr.DataArray(curve, {"checkpoint": np.arange(43) * 10}, ("checkpoint", "logit"))
    result = essential_dynamics(outputs, num_components=2)
    figure = plots.essential_dynamics(result, dark=True)
    named = result["checkpoint"][(result["is_vertex"] | result["is_cusp"]).squeeze("plane")].values
    assert texts_of(figure) == {str(name) for name in named}
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    np.testing.assert_allclose(lines["smoothed"].get_xydata(), result["smoothed"])
    assert len(lines["cusp"].get_xydata()) == 1


def test_the_picture_of_trajectories_has_a_colour_for_each_cluster():
    from devinterp_structure import trajectory_clusters

    generator = np.random.default_rng(0)
    shapes = np.stack([np.linspace(0, 1, 20), np.linspace(1, 0, 20)])[[0, 0, 1, 1, 1]]
    values = xr.DataArray(
        shapes + generator.normal(0, 0.02, shapes.shape), {"restriction": list("abcde")}, ("restriction", "checkpoint")
    )
    errors = xr.full_like(values, 0.02)
    result = trajectory_clusters(values, errors, num_clusters=2)
    (ax,) = plots.trajectory_clusters(result, values, errors).axes
    colours = [line.get_color() for line in ax.lines]
    assert len(set(colours)) == 2
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0: c, d, e", "1: a, b"]
    assert "stability 1.00" in ax.get_title(loc="left")


def test_the_picture_of_a_kernel_sorts_sequences_by_group():
    from devinterp.testing import synthetic_tree
    from devinterp_structure import loss_kernel

    tree = synthetic_tree(num_draws=40)
    groups = np.array(["b", "a"])[np.arange(len(loss_kernel(tree)["sample"])) % 2]
    result = loss_kernel(tree, groups=groups)
    figure = tree.slt.plot.loss_kernel(groups=groups)
    left, right = figure.axes[:2]
    order = np.argsort(groups, kind="stable")
    np.testing.assert_allclose(left.images[0].get_array(), result["kernel"].to_numpy()[np.ix_(order, order)])
    assert [text.get_text() for text in left.get_yticklabels()] == ["a", "b"]
    assert {text.get_text() for text in right.get_legend().get_texts()} == {"a", "b"}
