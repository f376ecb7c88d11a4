"""The temperature of a run from the virial that it recorded at draws."""

from __future__ import annotations

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.mean_losses import share_minibatches
from devinterp.analyses.common.ratios import ratio_of_means
from devinterp.runs import settings
from devinterp.schema import DRAW, METRICS, PARAMETER


def virial_and_volume(run: xr.DataTree, draws: slice) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the virial at draws, ``(restriction, chain, draw)``, and what its mean is at equilibrium, float64.

    Parameters
    ----------
    run : xarray.DataTree
        A run that recorded the virial.
    draws : slice
        Which draws.
    """
    metrics = run[METRICS].to_dataset().drop_attrs().isel({DRAW: draws}, missing_dims="ignore")
    volume = metrics[schema.VIRIAL_VOLUME] if schema.VIRIAL_VOLUME in metrics else _size(metrics)
    return metrics[schema.VIRIAL].astype(np.float64), volume.astype(np.float64)


def mean_temperature(run: xr.DataTree, draws: slice) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the temperature relative to that of a run in equilibrium, ``(restriction)``, and its standard error."""
    virial, volume = virial_and_volume(run, draws)
    value, error = ratio_of_means(virial, volume, shared=share_minibatches(run))
    expected = expected_temperature(run)
    return value / expected, (error / expected).assign_attrs(error.attrs)


def expected_temperature(run: xr.DataTree) -> float:
    """Return the temperature at equilibrium: 1, or the square of another ``noise_level``."""
    return float(settings(run).get("noise_level", 1.0)) ** 2


def _size(metrics: xr.Dataset) -> xr.DataArray:
    return metrics[schema.PARAMETER_SIZE].sum(PARAMETER)
