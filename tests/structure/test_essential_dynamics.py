"""Essential dynamics: curves whose curvature, evolute, vertices and cusps are known, within many dimensions and noise."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from devinterp.errors import InvalidInputError
from devinterp_structure import essential_dynamics

TIME = np.linspace(0, 2 * np.pi, 240, endpoint=False)
ELLIPSE = np.stack([3 * np.cos(TIME), 2 * np.sin(TIME)], axis=1)


def within(curve: np.ndarray, num_features: int = 60, noise: float = 0.0) -> xr.DataArray:
    """Return a curve in a random plane of a space of logits ``(sequence, token)``."""
    generator = np.random.default_rng(0)
    plane, _ = np.linalg.qr(generator.normal(size=(num_features, curve.shape[1])))
    outputs = curve @ plane.T + 5.0 + generator.normal(0, noise, (len(curve), num_features))
    return xr.DataArray(outputs.reshape(len(curve), 6, -1), dims=("checkpoint", "sequence", "token"))


def test_an_ellipse_has_its_evolute_and_four_vertices():
    found = essential_dynamics(within(ELLIPSE), num_components=2)
    np.testing.assert_allclose(found["explained_variance_ratio"], [9 / 13, 4 / 13])
    np.testing.assert_allclose(np.abs(found["score"]), np.abs(ELLIPSE), atol=1e-9)
    inner = slice(8, -8)
    angle = np.arctan2(found["smoothed"][:, 1] / 2, found["smoothed"][:, 0] / 3).to_numpy()
    evolute = np.stack([5 / 3 * np.cos(angle) ** 3, -5 / 2 * np.sin(angle) ** 3], axis=1)
    np.testing.assert_allclose(found["centre"].sel(plane="1,2")[inner], evolute[inner], atol=0.01)
    curvature = 6 / (9 * np.sin(angle) ** 2 + 4 * np.cos(angle) ** 2) ** 1.5
    np.testing.assert_allclose(np.abs(found["curvature"][0])[inner], curvature[inner], rtol=5e-3)
    # The first vertex, at the start of the curve, is at its end and counts as none.
    assert np.flatnonzero(found["is_vertex"][0]).tolist() == [60, 120, 180]
    assert not found["is_cusp"].any()


def test_a_circle_has_one_centre_and_a_line_none():
    circle = essential_dynamics(within(ELLIPSE / [3, 2]), num_components=2)
    np.testing.assert_allclose(circle["centre"][0, 8:-8], 0, atol=1e-3)
    np.testing.assert_allclose(np.abs(circle["curvature"])[0, 8:-8], 1, rtol=1e-2)
    line = essential_dynamics(within(np.linspace(0, 1, 30)[:, None]), num_components=2)
    np.testing.assert_allclose(line["curvature"], 0, atol=1e-3)
    assert np.isnan(line["centre"]).all()
    assert line["explained_variance_ratio"][0] == pytest.approx(1)


def test_a_cusp_is_found_where_the_curve_turns_back():
    time = np.linspace(-1, 1.1, 101)
    found = essential_dynamics(within(np.stack([time**2, time**3], axis=1)), num_components=2)
    (place,) = np.flatnonzero(found["is_cusp"][0])
    assert abs(time[place]) < 0.02


def test_a_path_that_stands_still_has_no_curvature():
    ramp = np.concatenate([np.zeros(20), np.linspace(0, 1, 20)])
    found = essential_dynamics(within(np.stack([ramp, 0 * ramp], axis=1)), num_components=2, smoothing=0.5)
    assert np.isnan(found["curvature"][0, :15]).all()
    assert np.isfinite(found["speed"]).all()


@pytest.mark.parametrize("smoothing", [3.0, 5.0])
def test_with_noise_the_path_is_found_to_what_smoothing_leaves_of_it(smoothing):
    """Of white noise with sd s a Gaussian of width h leaves s / sqrt(2 h sqrt(pi)); it shrinks the ellipse by exp(-w²h²/2)."""
    noise = 0.05
    found = essential_dynamics(within(ELLIPSE, noise=noise), num_components=2, smoothing=smoothing)
    step = TIME[1]
    shrunk = ELLIPSE * np.exp(-((step * smoothing) ** 2) / 2)
    inner = slice(int(4 * smoothing), -int(4 * smoothing))
    left = (np.abs(found["smoothed"].to_numpy()) - np.abs(shrunk))[inner]
    far = np.abs(shrunk[inner]) > 0.5  # near an axis the absolute value is not the value
    assert left[far].std() == pytest.approx(noise / np.sqrt(2 * smoothing * np.sqrt(np.pi)), rel=0.25)


def test_padding_is_left_out_and_lazy_outputs_give_the_same():
    outputs = within(ELLIPSE)
    padded = outputs.pad(token=(0, 3), constant_values=np.nan)
    lazy = padded.copy(data=da.from_array(padded.to_numpy(), chunks=(50, 2, 4)))
    expected = essential_dynamics(outputs)
    for each in (padded, lazy):
        np.testing.assert_allclose(
            essential_dynamics(each)["centre"].sel(plane="1,2"), expected["centre"].sel(plane="1,2"), atol=1e-9
        )
    labelled = outputs.assign_coords(checkpoint=np.arange(240) * 10).rename(checkpoint="step")
    found = essential_dynamics(labelled, dim="step")
    assert found["step"].values[-1] == 2390
    assert found.attrs["steps"] == ["essential_dynamics(num_components=3, smoothing=1.0, dim='step')"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": np.zeros((9, 3))}, "`outputs` must be a DataArray with the dim 'checkpoint'"),
        ({"dim": "step"}, "the dim 'step'"),
        ({"num_components": 1}, "`num_components`"),
        ({"num_components": 240}, "less than the 240 checkpoints"),
        ({"smoothing": 0}, "`smoothing`"),
        ({"outputs": within(ELLIPSE[:4])}, "5 checkpoints or more"),
        ({"outputs": within(ELLIPSE).where(np.arange(240)[:, None, None] > 3)}, "360 of 360|60 of 60"),
        ({"outputs": within(ELLIPSE) * np.nan}, "NaN everywhere"),
    ],
)
def test_bad_input_is_named(change, message):
    given = {"outputs": within(ELLIPSE), **change}
    with pytest.raises(InvalidInputError, match=message):
        essential_dynamics(**given)
