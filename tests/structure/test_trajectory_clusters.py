"""Clusters of trajectories: planted shapes at several noises, against trajectories that are nothing but noise."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from devinterp.errors import InvalidInputError
from devinterp_structure import trajectory_clusters

TIME = np.linspace(0, 1, 24)
#: Slow growth, a jump, and a peak: the first is the most frequent.
SHAPES = np.stack([TIME**2, 1 / (1 + np.exp(-30 * (TIME - 0.3))), np.exp(-(((TIME - 0.6) / 0.1) ** 2))])
TRUTH = np.repeat([0, 1, 2], [5, 4, 3])


def planted(noise: float, seed: int = 0) -> tuple[xr.DataArray, xr.DataArray]:
    """Return trajectories of three shapes, with sizes of their own, and their errors."""
    generator = np.random.default_rng(seed)
    sizes = generator.uniform(1, 4, (12, 1))
    exact = xr.DataArray(
        (SHAPES[TRUTH] * sizes).T,
        dims=("checkpoint", "restriction"),
        coords={"checkpoint": np.arange(24) * 10, "restriction": [f"l1h{number}" for number in range(12)]},
    )
    return exact + generator.normal(0, noise, exact.shape), xr.full_like(exact, noise)


@pytest.mark.parametrize(("noise", "least"), [(0.02, 0.99), (0.1, 0.99), (0.2, 0.8)])
def test_planted_shapes_are_found_and_stable(noise, least):
    values, errors = planted(noise)
    found = trajectory_clusters(values, errors, num_clusters=3)
    assert found["cluster"].values.tolist() == TRUTH.tolist()
    assert float(found["stability"]) > least
    assert (found["silhouette"] > 0).all()
    assert found["mean"].dims == ("group", "checkpoint")
    correlations = np.corrcoef(found["mean"], SHAPES)[:3, 3:]
    assert (np.diag(correlations) > 0.95).all()
    assert found["restriction"].values[0] == "l1h0"


def test_with_little_noise_the_number_is_found():
    found = trajectory_clusters(planted(0.02)[0])
    assert found["mean"].sizes["group"] == 3
    assert np.isnan(found["stability"])


@pytest.mark.heavy
def test_noise_has_no_stable_clusters():
    """A table of noise alone: the mean over 10 tables is near 0, where planted shapes have 1."""
    stabilities = []
    for seed in range(10):
        noise = np.random.default_rng(seed).normal(size=(24, 12))
        values = xr.DataArray(noise, dims=("checkpoint", "restriction"))
        stabilities.append(float(trajectory_clusters(values, xr.ones_like(values), num_clusters=3)["stability"]))
    assert np.mean(stabilities) < 0.25


def test_sizes_count_only_where_they_are_asked_for():
    sizes = np.repeat([1.0, 10.0], 4)[:, None]
    noise = np.random.default_rng(0).normal(0, 0.01, (8, 24))
    values = xr.DataArray(SHAPES[np.tile([0, 1], 4)] * sizes + noise, dims=("restriction", "checkpoint"))
    shape, size = (
        trajectory_clusters(values, num_clusters=2, scale=scale)["cluster"].values for scale in ("shape", "size")
    )
    assert adjusted_rand_score(shape, np.tile([0, 1], 4)) == 1
    assert adjusted_rand_score(size, np.repeat([0, 1], 4)) == 1


def test_clusters_are_those_of_scikit_learn():
    values = xr.DataArray(np.random.default_rng(1).normal(size=(40, 6)), dims=("head", "checkpoint"))
    found = trajectory_clusters(values, num_clusters=5, of="head", scale="size")
    reference = AgglomerativeClustering(n_clusters=5, linkage="ward").fit_predict(values.values)
    assert adjusted_rand_score(found["cluster"], reference) == 1
    assert (np.diff(np.bincount(found["cluster"])) <= 0).all()


def test_seeds_are_part_of_a_trajectory():
    values, errors = planted(0.02)
    both, both_errors = (xr.concat([each, each * 2], "seed") for each in (values, errors))
    found = trajectory_clusters(both, both_errors, num_clusters=3)
    assert found["mean"].sizes == {"group": 3, "seed": 2, "checkpoint": 24}
    assert found["cluster"].values.tolist() == TRUTH.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": np.zeros((3, 4))}, "`values` must be a DataArray"),
        ({"of": "head"}, "'head'"),
        ({"num_clusters": 12}, "less than the 12"),
        ({"num_clusters": 1}, "`num_clusters`"),
        ({"scale": "log"}, "`scale`"),
        ({"values": planted(0.1)[0].where(TIME[:, None] > 0.1)}, "must be finite; 36"),
        ({"values": planted(0.0)[0] * 0}, "do not"),
        ({"errors": planted(0.1)[1][:5]}, "`errors` must have the dims"),
        ({"values": planted(0.1)[0][:, :2], "errors": None}, "3 of 'restriction' or more"),
    ],
)
def test_bad_input_is_named(change, message):
    values, errors = planted(0.1)
    given = {"values": values, "errors": errors, **change}
    with pytest.raises(InvalidInputError, match=message):
        trajectory_clusters(**given)
