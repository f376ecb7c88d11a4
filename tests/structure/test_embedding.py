"""The picture of tokens by UMAP, which need not be installed."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import xarray as xr

from devinterp.errors import InvalidInputError
from support.planted_structure import blobs

pytest.importorskip("devinterp_structure", reason="devinterp-structure is not installed")
from devinterp_structure import embedding, matrix_of_chains

needs_umap = pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="umap-learn is not installed")


def test_without_umap_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInputError, match=r"pip install .*umap"):
        embedding(matrix_of_chains(blobs(2, size=30)[0]))


@pytest.mark.slow
@needs_umap
@pytest.mark.filterwarnings("ignore")  # of numba
def test_planted_clusters_stay_apart_in_the_picture() -> None:
    values, true = blobs(3, distance=10.0)
    result = embedding(matrix_of_chains(values), num_neighbours=15, seed=1)
    places = result["embedding"].to_numpy()
    assert places.shape == (300, 2)
    centres = np.array([places[true == i].mean(0) for i in range(3)])
    nearest = np.linalg.norm(places[:, None] - centres, axis=-1).argmin(1)
    assert (nearest == true).all()
    np.testing.assert_array_equal(embedding(matrix_of_chains(values), num_neighbours=15, seed=1)["embedding"], places)


def kernel_of(num_groups: int, size: int) -> xr.Dataset:
    """Correlations of sequences in groups: 0.8 within, none between, and noise."""
    group = np.repeat(np.arange(num_groups), size)
    noise = 0.05 * np.random.default_rng(0).normal(size=(len(group), len(group)))
    values = 0.8 * (group[:, None] == group) + (noise + noise.T) / 2
    np.fill_diagonal(values, 1.0)
    return xr.Dataset(
        {"kernel": (("sample", "other_sample"), values.astype(np.float32))},
        coords={"sample_group": ("sample", group.astype(str)), "component": [1, 2]},
        attrs={"steps": ["loss_kernel()"]},
    )


def test_a_kernel_needs_more_sequences_than_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)  # not called before that is checked
    with pytest.raises(
        InvalidInputError, match=r"`num_neighbours` \(=20\) must be less than the number of sequences, 20"
    ):
        embedding(kernel_of(2, 10), num_neighbours=20)


@pytest.mark.slow
@needs_umap
@pytest.mark.filterwarnings("ignore")  # of numba
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_groups_of_a_loss_kernel_stay_apart_in_the_picture(metric) -> None:
    result = embedding(kernel_of(3, 40), num_neighbours=10, metric=metric, seed=1)
    places, group = result["embedding"].to_numpy(), result["sample_group"].to_numpy().astype(int)
    assert places.shape == (120, 2)
    assert set(result.variables) == {"embedding", "sample_group"}
    centres = np.array([places[group == i].mean(0) for i in range(3)])
    assert (np.linalg.norm(places[:, None] - centres, axis=-1).argmin(1) == group).all()
    assert [step.partition("(")[0] for step in result.attrs["steps"]] == ["loss_kernel", "embedding"]


def test_the_picture_of_a_kernel_has_its_groups() -> None:
    pytest.importorskip("devinterp_plots", reason="devinterp-plots is not installed")
    from devinterp_structure.plots.embedding import embedding as draw

    places = np.random.default_rng(0).normal(size=(6, 2))
    result = xr.Dataset({"embedding": (("sample", "axis"), places)}, {"sample_group": ("sample", list("aabbbb"))})
    figure = draw(xr.DataTree(), result=result)
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["a", "b"]
