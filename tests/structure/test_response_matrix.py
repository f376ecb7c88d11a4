"""The response matrix: rows, steps in their order, laziness, against the susceptibilities that it is made of."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import dask
import numpy as np
import pytest
import xarray as xr

from devinterp.errors import InvalidInputError, MissingDataError
from devinterp.testing import AnalysisTests, synthetic_tree

pytest.importorskip("devinterp_structure", reason="devinterp-structure is not installed")
from devinterp_structure import devinterp_analyses, matrix_of_chains, response_matrix, transformed

ANALYSES = {analysis.name: analysis for analysis in devinterp_analyses()}


class TestResponseMatrix(AnalysisTests):
    analysis = ANALYSES["response_matrix"]
    options: ClassVar = {"sampling_task": "train"}

    def tree(self, **options: object) -> xr.DataTree:
        return super().tree(**{"num_restrictions": 4, "num_chains": 3, "num_draws": 14, **options})


def run(**options: object) -> xr.DataTree:
    return synthetic_tree(**{"num_restrictions": 4, "ragged": True, "num_draws": 12, **options})


def as_rows(labelled: xr.DataArray, matrix: xr.Dataset) -> np.ndarray:
    """Return the susceptibilities at the rows of a matrix."""
    places = {name: matrix[name] for name in ("observable", "sequence", "position")}
    return labelled.sel(places).transpose("token", "restriction").sel(restriction=matrix["restriction"]).to_numpy()


def test_without_steps_it_holds_the_susceptibilities() -> None:
    tree = run()
    matrix = tree.slt.response_matrix("train", steps=(), include_sampling_task=True)
    labelled = tree.slt.susceptibilities("train", include_sampling_task=True)["labelled"].to_dataset()
    assert list(matrix["restriction"].values) == ["part1", "part2", "part3"]
    assert matrix.sizes["token"] == int(labelled["susceptibility"].isel(restriction=0).notnull().sum())
    np.testing.assert_allclose(matrix["response"], as_rows(labelled["susceptibility"], matrix), rtol=1e-5, atol=1e-7)
    # Leaving out chains is what the errors of susceptibilities come from.
    left_out = matrix["response_left_out"]
    spread = np.sqrt(3 / 4 * ((left_out - left_out.mean("left_out_chain")) ** 2).sum("left_out_chain"))
    expected = as_rows(labelled["susceptibility_se"], matrix)
    np.testing.assert_allclose(spread, expected, rtol=1e-3, atol=1e-4 * expected.max())
    assert matrix.attrs["steps"] == [
        "susceptibilities(sampling_task='train', estimator='two_run', initial_loss='paired', burnin=0, null=False)"
    ]


def test_z_scores_and_centred_rows_are_those_of_susceptibilities() -> None:
    tree = run()
    matrix = tree.slt.response_matrix("train", restrictions=["full", "part1", "part2", "part3"])
    labelled = tree.slt.susceptibilities("train", z_score=True, centre_rows=True)["labelled"].to_dataset()
    np.testing.assert_allclose(matrix["response"], as_rows(labelled["susceptibility"], matrix), atol=1e-4)
    assert matrix.attrs["steps"][1:] == ["z_score", "centre_rows"]


def planted(count: int = 500, width: int = 6, chains: int = 3) -> xr.DataArray:
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(width, width)) * rng.uniform(0.1, 10, width)
    shared = rng.normal(size=(count, width)) @ mixing + rng.normal(size=width)
    return xr.DataArray(shared + rng.normal(size=(chains, count, width)), dims=("chain", "token", "restriction"))


@pytest.mark.parametrize(
    "steps",
    [
        ("z_score", "centre_rows"),
        ("centre_rows", "z_score"),
        ("z_score", "centre_rows", "whiten"),
        ("centre_columns",),
        ("whiten",),
    ],
)
def test_steps_are_made_in_the_order_in_which_they_are_given(steps: tuple[str, ...]) -> None:
    values = planted()
    expected = values.mean("chain").to_numpy()
    for step in steps:
        if step == "z_score":
            expected = (expected - expected.mean(0)) / expected.std(0)
        elif step == "centre_columns":
            expected = expected - expected.mean(0)
        elif step == "centre_rows":
            expected = expected - expected.mean(1, keepdims=True)
        else:
            centred = expected - expected.mean(0)
            left, sizes, right = np.linalg.svd(centred, full_matrices=False)
            kept = sizes > 1e-3 * sizes[0]
            expected = np.sqrt(len(expected)) * left[:, kept] @ right[kept]
    matrix = matrix_of_chains(values, steps=steps)
    np.testing.assert_allclose(matrix["response"], expected, atol=2e-4 * np.abs(expected).max())
    assert matrix.attrs["steps"] == ["given(chains=3)", *steps]
    if steps[-1] == "whiten":
        covariance = np.cov(matrix["response"].T, bias=True)
        # The identity, or a projection onto what centring of rows has left.
        np.testing.assert_allclose(covariance @ covariance, covariance, atol=1e-3)
        assert np.trace(covariance) == pytest.approx(6 - ("centre_rows" in steps), abs=1e-2)
    # Steps of a matrix that was kept as it was are the same steps; rows without a chain go through the same map.
    later = transformed(matrix_of_chains(values), steps)
    xr.testing.assert_allclose(later, matrix)
    np.testing.assert_allclose(matrix["response_left_out"].mean("left_out_chain"), matrix["response"], atol=1e-3)


def test_a_matrix_with_nan_rows_and_chunks_of_any_size_gives_the_same() -> None:
    values = planted().copy()
    values[:, 7] = np.nan
    expected = matrix_of_chains(values, steps=("z_score", "centre_rows", "whiten"))
    assert expected["response"].isnull().any("restriction").sum() == 1
    for size in (7, 500):
        chunked = values.chunk({"token": size, "restriction": 2})
        lazy = matrix_of_chains(chunked, steps=("z_score", "centre_rows", "whiten"))
        assert lazy["response"].chunks is not None
        np.testing.assert_allclose(lazy["response"], expected["response"], atol=1e-4)


def test_the_second_pass_keeps_nothing_of_the_first() -> None:
    """Blocks of rows are read twice, and no task of the second pass waits for one of the first but for its moments."""
    reads = []

    def block(block_info: dict | None = None) -> np.ndarray:
        reads.append(1)
        return np.random.default_rng(block_info[None]["chunk-location"][1]).normal(size=(2, 10, 3))

    array = dask.array.map_blocks(block, chunks=((2,), (10,) * 8, (3,)), dtype=float, meta=np.empty((0, 0, 0)))
    values = xr.DataArray(array, dims=("chain", "token", "restriction"))
    matrix = matrix_of_chains(values, steps=("z_score",))
    with dask.config.set(scheduler="synchronous"):
        matrix["response"].compute()
    assert len(reads) == 2 * 8


def test_it_goes_to_a_store_and_comes_back_with_its_steps(tmp_path: Path) -> None:
    matrix = run(chunks={}).slt.response_matrix("train")
    matrix.to_zarr(tmp_path / "matrix.zarr", consolidated=False)
    again = xr.open_zarr(tmp_path / "matrix.zarr", consolidated=False)
    assert again.attrs["steps"] == matrix.attrs["steps"]
    xr.testing.assert_allclose(again["response"].compute(), matrix["response"].compute())


def test_runs_of_a_study_are_joined() -> None:
    study = xr.DataTree.from_dict({"/a": run(seed=1), "/b": run(seed=2, n_beta=30.0)})
    joined = study.slt.response_matrix("train", steps=())
    assert joined["response"].sizes["n_beta"] == 2


def test_a_null_is_a_matrix_of_its_own() -> None:
    tree = run()
    tree["null"] = run(seed=9)
    null = tree.slt.response_matrix("train", null=True)
    assert "null=True" in null.attrs["steps"][0]
    xr.testing.assert_allclose(null["response"], run(seed=9).slt.response_matrix("train")["response"])
    with pytest.raises(MissingDataError, match="sample with `null=True`"):
        run().slt.response_matrix("train", null=True)


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(InvalidInputError, match="`steps` .*'z_score'"):
        run().slt.response_matrix("train", steps=("zscore",))
    with pytest.raises(InvalidInputError, match="`restrictions`"):
        run().slt.response_matrix("train", restrictions=["l0h1"])
    values = planted().copy()
    values[:, :, 2] = 3.0
    with pytest.raises(InvalidInputError, match="'restriction 2' respond"):
        matrix_of_chains(values, steps=("z_score",))
    with pytest.raises(InvalidInputError, match="response matrix"):
        transformed(xr.Dataset(), ("z_score",))
    with pytest.raises(InvalidInputError, match="sampling_task"):
        response_matrix(run())
