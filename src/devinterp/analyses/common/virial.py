"""The temperature of a run from the virial that it recorded at draws."""

from __future__ import annotations

import numpy as np
import xarray as xr

from devinterp import schema
from devinterp.analyses.common.mean_losses import share_minibatches
from devinterp.analyses.common.ratios import ratio_of_means
from devinterp.analyses.common.run_data import labels
from devinterp.runs import settings
from devinterp.schema import CHAIN, DRAW, METRICS, PARAMETER, RESTRICTION


def virial_and_volume(run: xr.DataTree, draws: slice) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the virial at draws, ``(restriction, chain, draw)``, and what its mean is at equilibrium, float64.

    Parameters
    ----------
    run : xarray.DataTree
        A run that recorded the virial.
    draws : slice
        Which draws.
    """
    virial, volume = _unlabelled(run, draws)
    coords = {name: each.isel({DRAW: draws}) if name == DRAW else each for name, each in _labels(run).items()}
    return xr.DataArray(virial, coords), xr.DataArray(
        volume, {dim: coords[dim] for dim in volume.dims if dim in coords}
    )


def _labels(run: xr.DataTree) -> dict[str, xr.Variable]:
    return labels(run[METRICS], RESTRICTION, CHAIN, DRAW)


def mean_temperature(run: xr.DataTree, draws: slice) -> tuple[xr.Variable, xr.Variable]:
    """Return the temperature relative to that of a run in equilibrium, ``(restriction)``, and its standard error."""
    virial, volume = _unlabelled(run, draws)
    value, error = ratio_of_means(virial, volume, shared=share_minibatches(run))
    expected = expected_temperature(run)
    return value / expected, error / expected


def expected_temperature(run: xr.DataTree) -> float:
    """Return the temperature at equilibrium: 1, or the square of another ``noise_level``."""
    return float(settings(run).get("noise_level", 1.0)) ** 2


def _unlabelled(run: xr.DataTree, draws: slice) -> tuple[xr.Variable, xr.Variable]:
    metrics = run[METRICS].variables
    if schema.VIRIAL_VOLUME in metrics:
        volume = _read(metrics[schema.VIRIAL_VOLUME]).isel({DRAW: draws})
    else:
        volume = _read(metrics[schema.PARAMETER_SIZE]).sum(PARAMETER)
    virial = _read(metrics[schema.VIRIAL]).isel({DRAW: draws})
    return virial.astype(np.float64), volume.astype(np.float64)


def _read(variable: xr.Variable) -> xr.Variable:
    """Return a variable without attributes, read before a part of it is selected: xarray then keeps it for the next call."""
    return xr.Variable(variable.dims, variable.data)
