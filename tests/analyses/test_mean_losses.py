"""Sums of losses: as exact as they are stored, whatever is masked and however large they are."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from devinterp.analyses.common.mean_losses import sums


def losses(*shape: int, scale: float = 4.0) -> np.ndarray:
    return np.random.default_rng(0).gamma(2.0, scale / 2, shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(3, 5, 7), (3, 16, 64), (2, 128, 64), (2, 81, 100), (3, 1, 1025)])
def test_sums_are_those_in_float64(shape):
    values = losses(*shape)
    total = sums(xr.Variable(("draw", "sequence", "position"), values), "sequence").to_numpy()
    np.testing.assert_allclose(total[:, 0], values.astype(np.float64).sum((1, 2)), rtol=2e-8)
    assert (total[:, 1] == shape[1] * shape[2]).all()


def test_what_is_masked_does_not_count():
    values = losses(3, 32, 64)
    values[1, 4, 50:] = values[2, :, 63:] = np.nan
    total = sums(xr.Variable(("draw", "sequence", "position"), values), "sequence").to_numpy()
    np.testing.assert_allclose(total[:, 0], np.nansum(values.astype(np.float64), (1, 2)), rtol=2e-8)
    assert total[:, 1].tolist() == [32 * 64, 32 * 64 - 14, 32 * 63]


def test_losses_near_the_largest_number_of_float32_have_a_sum():
    values = losses(2, 16, 64)
    values[1] = np.finfo(np.float32).max / 2
    total = sums(xr.Variable(("draw", "sequence", "position"), values), "sequence").to_numpy()
    np.testing.assert_allclose(total[:, 0], values.astype(np.float64).sum((1, 2)), rtol=2e-8)
