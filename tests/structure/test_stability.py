"""Stability: planted clusters stay, what is noise does not."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import xarray as xr

from devinterp.errors import InvalidInputError, MissingDataError
from devinterp.testing import AnalysisTests
from support.planted_structure import blobs

pytest.importorskip("devinterp_structure", reason="devinterp-structure is not installed")
from devinterp_structure import devinterp_analyses, matrix_of_chains, neighbours, pca, stability

ANALYSES = {analysis.name: analysis for analysis in devinterp_analyses()}


class TestStability(AnalysisTests):
    analysis = ANALYSES["stability"]
    options: ClassVar = {
        "sampling_task": "train", "num_neighbours": 5, "min_size": 4, "num_repeats": 2, "steps": ("centre_columns",),
    }  # fmt: skip

    def tree(self, **options: object) -> xr.DataTree:
        return super().tree(**{"num_restrictions": 4, "num_chains": 3, "num_draws": 14, **options})


def test_planted_clusters_are_stable() -> None:
    values, _ = blobs(3, distance=10.0, num_chains=4, noise=0.3)
    result = stability(matrix_of_chains(values), num_repeats=2)
    assert result["change"].values.tolist() == ["seed"] * 2 + ["subsample"] * 2 + ["chain"] * 4
    assert result["number"].values.tolist() == [0, 1, 0, 1, 0, 1, 2, 3]
    assert (result["adjusted_rand"] > 0.99).all()
    assert (result["neighbour_overlap"][:4] == 1).all()  # only chains move tokens
    assert (result["num_clusters"] == 3).all()
    assert result["num_clusters_of_all"] == 3


def test_the_overlap_of_neighbours_is_that_of_the_matrices_without_a_chain() -> None:
    values, _ = blobs(2, size=60, noise=1.5)
    matrix = matrix_of_chains(values)
    result = stability(matrix, changes=["chain"], num_neighbours=6)
    whole = neighbours(matrix, num_neighbours=6)["neighbour"].to_numpy()
    for number in range(3):
        rows = matrix["response_left_out"][number].rename("response").drop_vars("left_out_chain")
        other = neighbours(rows.to_dataset(), num_neighbours=6)["neighbour"].to_numpy()
        overlap = np.mean([len(set(a) & set(b)) / 6 for a, b in zip(whole, other, strict=True)])
        assert float(result["neighbour_overlap"][number]) == pytest.approx(overlap)
    assert 0.1 < overlap < 0.9


def test_neighbours_of_noise_stay_as_often_as_by_chance_when_no_chain_is_shared() -> None:
    rng = np.random.default_rng(0)
    values = xr.DataArray(rng.normal(size=(2, 400, 8)), dims=("chain", "token", "restriction"))
    matrix = matrix_of_chains(values)
    # Of two chains each one alone; compared with each other, not with their mean.
    alone = matrix.assign(response=matrix["response_left_out"][0].drop_vars("left_out_chain"))
    alone = alone.isel(left_out_chain=[1])
    result = stability(alone, changes="chain", num_neighbours=20)
    chance = result["neighbour_overlap"].attrs["by_chance"]
    assert chance == pytest.approx(20 / 399)
    assert float(result["neighbour_overlap"][0]) == pytest.approx(chance, abs=0.015)
    assert (result["num_clusters"] == 0).all()


def test_what_cannot_be_is_said() -> None:
    matrix = matrix_of_chains(blobs(2, size=60)[0])
    with pytest.raises(MissingDataError, match="without each chain"):
        stability(pca(matrix), changes=["chain"])
    assert set(stability(pca(matrix), num_repeats=1)["change"].values) == {"seed", "subsample"}
    with pytest.raises(InvalidInputError, match="`changes`"):
        stability(matrix, changes=["draw"])
    with pytest.raises(InvalidInputError, match="below 1"):
        stability(matrix, share=1.0)
