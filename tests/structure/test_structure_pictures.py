"""Pictures of structure: what is drawn is what the analyses give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from devinterp.errors import InvalidInputError
from devinterp.testing import synthetic_tree
from support.planted_structure import blobs, modes

pytest.importorskip("devinterp_structure", reason="devinterp-structure is not installed")
pytest.importorskip("devinterp_plots", reason="devinterp-plots is not installed")
from devinterp_structure import clusters, devinterp_plots, matrix_of_chains, neighbours, pca, stability
from devinterp_structure import plots as pictures

RUN = {"num_restrictions": 4, "num_draws": 12}


def offsets(ax: object) -> np.ndarray:
    return np.concatenate([np.asarray(each.get_offsets()) for each in ax.collections])


def test_every_picture_of_a_run_can_be_drawn_and_written(tmp_path: Path) -> None:
    tree = synthetic_tree(**RUN)
    small = {"neighbours": {"num_neighbours": 5}, "clusters": {"num_neighbours": 5, "min_size": 4}}
    small["stability"] = {**small["clusters"], "num_repeats": 1}
    drawn = {}
    for plot in devinterp_plots():
        if plot.name not in (
            "embedding",
            "loss_kernel",
        ):  # the one needs umap-learn, the other a run of one restriction
            options = {"sampling_task": "train", **small.get(plot.name, {})}
            drawn[plot.name] = getattr(tree.slt.plot, plot.name)(**options, dark=True)
    assert len(drawn) == 6
    drawn["pca"].savefig(tmp_path / "pca.svg")
    lazy = synthetic_tree(**RUN, chunks={}).slt.plot.pca(sampling_task="train")
    for one, other in zip(drawn["pca"].axes, lazy.axes, strict=True):
        for a, b in zip(one.lines, other.lines, strict=True):
            np.testing.assert_allclose(a.get_ydata(), b.get_ydata(), rtol=1e-4, atol=1e-6)


def test_the_picture_of_components_has_scores_loadings_and_variances() -> None:
    planted = modes((3.0, 2.0))
    result = pca(matrix_of_chains(planted.values), num_components=4)
    labels = np.where(planted.scores[:, 0] > 0, "right", "left")
    figure = pictures.pca(xr.DataTree(), result=result, labels=labels, components=(2, 1))
    left, middle, right = figure.axes
    np.testing.assert_allclose([bar.get_height() for bar in left.patches], result["explained_variance"])
    np.testing.assert_allclose(left.lines[0].get_ydata(), result["signal_variance"])
    drawn, expected = offsets(middle), result["score"].to_numpy()[:, [1, 0]]
    np.testing.assert_allclose(np.sort(drawn, axis=0), np.sort(expected, axis=0), atol=1e-5)
    np.testing.assert_allclose(offsets(right), result["loading"].to_numpy()[[1, 0]].T)
    names = {text.get_text() for text in right.texts}
    assert names == {f"l0h{i}" for i in range(8)}
    assert {text.get_text() for text in middle.get_legend().get_texts()} == {"left", "right"}
    with pytest.raises(InvalidInputError, match="two of"):
        pictures.pca(xr.DataTree(), result=result, components=(1, 5))
    with pytest.raises(InvalidInputError, match="of the 300 tokens"):
        pictures.pca(xr.DataTree(), result=result, labels=labels[1:])


def test_the_pictures_of_clusters_neighbours_and_stability_say_their_numbers() -> None:
    values, _ = blobs(3, distance=10.0)
    matrix = matrix_of_chains(values)
    result, components = clusters(matrix), pca(matrix, num_components=2)
    left, right = pictures.clusters(xr.DataTree(), result=result, components=components).axes
    assert len(offsets(left)) == 300
    np.testing.assert_allclose(offsets(right)[:, 0], np.bincount(result["cluster"][result["cluster"] >= 0]))
    assert "3 clusters" in right.get_title(loc="left")
    near = neighbours(matrix, num_neighbours=7)
    (ax,) = pictures.neighbours(xr.DataTree(), result=near).axes
    np.testing.assert_allclose(ax.lines[0].get_ydata(), np.median(near["distance"], axis=0))
    stable = stability(matrix, num_repeats=1)
    (ax,) = pictures.stability(xr.DataTree(), result=stable).axes
    drawn = np.concatenate([line.get_ydata() for line in ax.lines[:-1]])
    expected = [stable[name] for name in ("adjusted_rand", "neighbour_overlap")]
    np.testing.assert_allclose(np.sort(drawn), np.sort(np.concatenate(expected)))


def test_the_picture_of_a_matrix_shows_some_tokens_sorted_by_label() -> None:
    values, true = blobs(3)
    matrix = matrix_of_chains(values)
    figure = pictures.response_matrix(
        xr.DataTree(), result=matrix, labels=np.array([f"c{i}" for i in true]), max_tokens=30
    )
    ax = figure.axes[0]
    image = ax.images[0].get_array()
    assert image.shape == (30, 8)
    assert [text.get_text() for text in ax.get_yticklabels()] == ["c0", "c1", "c2"]
    assert "30 of 300 tokens" in ax.get_title(loc="left")
    first = np.flatnonzero(true == 0)[0]
    np.testing.assert_allclose(image[0], matrix["response"][first])
