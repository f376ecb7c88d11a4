"""The picture of tokens by UMAP, which need not be installed."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from devinterp.errors import InvalidInputError
from support.planted_structure import blobs

pytest.importorskip("devinterp_structure", reason="devinterp-structure is not installed")
from devinterp_structure import embedding, matrix_of_chains


def test_without_umap_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInputError, match=r"pip install .*umap"):
        embedding(matrix_of_chains(blobs(2, size=30)[0]))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="umap-learn is not installed")
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
