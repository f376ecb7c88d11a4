"""Nearest neighbours: exact ones by brute force, approximate ones against these."""

from __future__ import annotations

import sys
from typing import ClassVar

import numpy as np
import pytest
import xarray as xr

from devinterp.errors import InvalidInputError
from devinterp.testing import AnalysisTests
from support.planted_structure import blobs, modes

pytest.importorskip("devinterp_structure", reason="devinterp-structure is not installed")
from devinterp_structure import devinterp_analyses, matrix_of_chains, neighbours, pca

ANALYSES = {analysis.name: analysis for analysis in devinterp_analyses()}


class TestNeighbours(AnalysisTests):
    analysis = ANALYSES["neighbours"]
    options: ClassVar = {"sampling_task": "train", "num_neighbours": 3, "steps": ("centre_columns",)}
    tolerance = 1e-4

    def tree(self, **options: object) -> xr.DataTree:
        return super().tree(**{"num_restrictions": 4, "num_chains": 3, "num_draws": 14, **options})


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_exact_neighbours_are_those_of_all_pairs(metric: str) -> None:
    values, _ = blobs(3, size=40)
    matrix = matrix_of_chains(values)
    points = matrix["response"].to_numpy().astype(np.float64)
    if metric == "cosine":
        unit = points / np.linalg.norm(points, axis=1, keepdims=True)
        distances = 1 - unit @ unit.T
    else:
        distances = np.linalg.norm(points[:, None] - points, axis=-1)
    np.fill_diagonal(distances, np.inf)
    result = neighbours(matrix, num_neighbours=7, metric=metric)
    np.testing.assert_array_equal(result["neighbour"], np.argsort(distances, axis=1)[:, :7])
    np.testing.assert_allclose(result["distance"], np.sort(distances, axis=1)[:, :7], rtol=1e-3, atol=1e-5)
    assert result.attrs["steps"][-1] == f"neighbours(num_neighbours=7, metric='{metric}', method='exact')"


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("chunks", [None, {"token": 700, "restriction": 3}])
def test_what_an_approximate_search_finds_is_measured(metric: str, chunks: dict[str, int] | None) -> None:
    pytest.importorskip("faiss")
    values, _ = blobs(5, size=600)
    matrix = matrix_of_chains(values if chunks is None else values.chunk(chunks))
    exact = neighbours(matrix, num_neighbours=10, metric=metric)["neighbour"].to_numpy()
    recalls = []
    for probes in (1, 3, 11):
        result = neighbours(matrix, num_neighbours=10, metric=metric, method="approximate", probes=probes).compute()
        numbers = result["neighbour"].to_numpy()
        true = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, numbers, strict=True)])
        assert abs(float(result["recall"]) - true) < 5 * float(result["recall_se"]) + 1e-3
        assert not (numbers == np.arange(len(numbers))[:, None]).any()
        recalls.append(true)
        again = neighbours(matrix, num_neighbours=10, metric=metric, method="approximate", probes=probes)
        np.testing.assert_array_equal(again["neighbour"], numbers)
    assert recalls == sorted(recalls)
    assert recalls[0] < 0.95 < recalls[1] + 0.15
    assert recalls[2] > 0.999  # all of the eleven cells: nothing is left out but ties


def test_neighbours_may_be_those_of_components() -> None:
    planted = modes((4.0, 3.0, 2.0), noise=0.01)
    matrix = matrix_of_chains(planted.values)
    components = pca(matrix, num_components=3)
    one, other = neighbours(matrix, num_neighbours=5), neighbours(components, num_neighbours=5)
    share = (np.sort(one["neighbour"]) == np.sort(other["neighbour"])).mean()
    assert share > 0.97  # all but noise is in three components
    assert other.attrs["steps"][-2].startswith("pca(")
    assert "loading" not in other


def test_what_cannot_be_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    values, _ = blobs(2, size=20)
    matrix = matrix_of_chains(values)
    with pytest.raises(InvalidInputError, match="less than the number of tokens, 40"):
        neighbours(matrix)
    values[:, 3] = np.nan
    with pytest.raises(InvalidInputError, match="1 of 40 tokens .*dropna"):
        neighbours(matrix_of_chains(values), num_neighbours=5)
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InvalidInputError, match="pip install"):
        neighbours(matrix, num_neighbours=5, method="approximate")
