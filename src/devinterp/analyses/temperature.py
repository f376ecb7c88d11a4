r"""Whether chains are at their temperature: the virial of a run, divided by what it is at equilibrium.

.. math:: T = \frac{\mathrm{E}[(w - w_0) \cdot \nabla U(w)]}{d}
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from devinterp import arguments, schema
from devinterp.analyses.common.blockwise import storable
from devinterp.analyses.common.mean_losses import share_minibatches
from devinterp.analyses.common.ratios import ratio_of_means
from devinterp.analyses.common.run_data import (
    STATUS_REQUIRED,
    Chains,
    burnin_steps,
    draws_after,
    drop_single_restriction,
    use_chains,
)
from devinterp.analyses.common.virial import expected_temperature, virial_and_volume
from devinterp.analyses.llc.draw_rise import DrawRise
from devinterp.hookspecs import hookimpl
from devinterp.runs import only
from devinterp.schema import DRAW, METRICS
from devinterp.types import Analysis

TEMPERATURE_REQUIRES = (f"{METRICS}/{schema.VIRIAL}", f"{METRICS}/{schema.PARAMETER_SIZE}", *STATUS_REQUIRED)
#: Dimension of consecutive parts of the draws.
WINDOW = "window"


def temperature(
    tree: xr.DataTree, *, burnin: int | None = None, chains: Chains = "all", windows: int = 4
) -> xr.Dataset:
    r"""Compute the configurational temperature of a run [1]_, which is 1 at equilibrium, whatever the loss.

    .. math:: T = \frac{\mathrm{E}[(w - w_0) \cdot \nabla U(w)]}{d}, \qquad
        U = n\beta L + \tfrac{\gamma}{2} |w - w_0|^2 + \tfrac{\lambda}{2} |w|^2

    with d the number of sampled weights, by integration by parts. Below 1, weights have not yet gone as far as they will:
    burn-in is too short, even where R-hat shows nothing. Above 1, steps or minibatch noise are too large. In a bounding box
    the field :math:`w - w_0` is weighted so that it vanishes on the walls. Lazy for a lazy tree.

    Parameters
    ----------
    tree : xarray.DataTree
        A sampling run.
    burnin : int, optional
        Number of initial steps to leave out, from 0. Default: the ``num_burnin_steps`` that the run was sampled with.
    chains : {"all", "finished"}, default: "all"
        Refuse a run with chains that did not finish, or use those that did.
    windows : int, default: 4
        Into how many consecutive parts the draws are cut to show how the temperature changes; at least 1. There are
        no more than draws.

    Returns
    -------
    xarray.Dataset
        Over ``restriction`` where there are several:

        - ``temperature``, ``temperature_per_chain(chain)``, and ``temperature_se``, from autocorrelation and spread of chains;
        - ``window_temperature(window)`` and ``window_temperature_se``, of consecutive parts of the draws;
        - ``parameter_temperature(parameter)`` and ``parameter_temperature_se``, of each parameter tensor, where they are
          recorded, and ``parameter_size``, the number of its sampled weights;
        - ``direction_temperature(direction)``, ``direction_temperature_se`` and ``direction_curvature``, the second derivative
          of the loss at w0, for the directions in which it curves most, where they are recorded (``curvature_directions``);
        - ``degeneracy`` and ``degeneracy_se``: :math:`\mathrm{E}[(w - w_0) \cdot \nabla L] / 2 \mathrm{E}[L(w) - L(w_0)]`, one
          for a quadratic loss and k for one that is homogeneous of degree 2k; where the losses of rows at w0 are stored.

        Attributes: ``expected``, the temperature at equilibrium, ``noise_level`` squared; ``burnin``, ``chains``,
        ``chains_used``, ``chains_left_out``.

    Raises
    ------
    BrokenChainsError
        If a chain diverged or is unfinished and `chains` is ``"all"``.
    InvalidInputError
        If `burnin` leaves no draw, or `windows` is below 1.
    MissingDataError
        If the run does not record the virial.

    References
    ----------
    .. [1] H. H. Rugh. Dynamical approach to temperature. Physical Review Letters 78 (1997) 772.
       doi:10.1103/PhysRevLett.78.772.
    """
    run = only(tree, name="temperature", requires=TEMPERATURE_REQUIRES)
    run, used = use_chains(run, chains, needed_by="temperature")
    burnin = burnin_steps(run, burnin)
    draws, shared = draws_after(run, burnin), share_minibatches(run)
    metrics = run[METRICS].to_dataset().drop_attrs().isel({DRAW: draws})
    sizes = metrics[schema.PARAMETER_SIZE]
    virial, volume = virial_and_volume(run, draws)
    result = xr.Dataset()
    result["temperature"], result["temperature_se"] = ratio_of_means(virial, volume, shared=shared)
    result["temperature_per_chain"] = virial.mean(DRAW, skipna=False) / _mean(volume, DRAW)
    result = result.assign(_windows(virial, volume, windows, shared=shared))
    if schema.PARAMETER_VIRIAL in metrics:
        parts, volumes = (
            _as_double(metrics.get(name, sizes)) for name in (schema.PARAMETER_VIRIAL, schema.PARAMETER_VOLUME)
        )
        ratio, error = ratio_of_means(parts, volumes, shared=shared)
        result["parameter_temperature"], result["parameter_temperature_se"] = ratio, error
        result["parameter_size"] = sizes
    if schema.DIRECTION_VIRIAL in metrics:
        along = _as_double(metrics[schema.DIRECTION_VIRIAL])
        ratio, error = ratio_of_means(along, xr.ones_like(metrics[schema.DIRECTION_CURVATURE]), shared=shared)
        result["direction_temperature"], result["direction_temperature_se"] = ratio, error
        result[schema.DIRECTION_CURVATURE] = metrics[schema.DIRECTION_CURVATURE]
    at_draws = DrawRise.of(run, run["draw_step"].to_numpy()[draws])
    if at_draws is not None:
        slope = _as_double(metrics[schema.VIRIAL_GRADIENT]).drop_vars(DRAW, errors="ignore")
        ratio, error = ratio_of_means(slope, 2 * at_draws.rise, shared=shared)
        result["degeneracy"], result["degeneracy_se"] = ratio, error
    result.attrs = {"expected": expected_temperature(run), "burnin": burnin, **used}
    return storable(drop_single_restriction(result))


def _windows(virial: xr.DataArray, volume: xr.DataArray, num: int, *, shared: bool) -> dict[str, Any]:
    """Return the temperatures of consecutive parts of the draws."""
    num_draws = virial.sizes[DRAW]
    num = min(arguments.count("windows", num, least=1), num_draws)
    ends = np.arange(1, num + 1) * num_draws // num
    kept = [slice(int(first), int(end)) for first, end in zip([0, *ends[:-1]], ends, strict=True)]
    parts = [
        ratio_of_means(
            virial.isel({DRAW: each}), volume.isel({DRAW: each}) if DRAW in volume.dims else volume, shared=shared
        )
        for each in kept
    ]
    joined = {
        f"{WINDOW}_temperature{suffix}": xr.concat(each, WINDOW)
        for suffix, each in zip(("", "_se"), zip(*parts, strict=True), strict=True)
    }
    degrees = min(error.attrs["degrees_of_freedom"] for _, error in parts)
    joined[f"{WINDOW}_temperature_se"].attrs["degrees_of_freedom"] = degrees
    return joined


def _mean(volume: xr.DataArray, dim: str) -> xr.DataArray:
    mean = volume.mean(dim, skipna=False) if dim in volume.dims else volume
    return mean.where(mean != 0)


def _as_double(values: xr.DataArray) -> xr.DataArray:
    return values.astype(np.float64)


@hookimpl
def devinterp_analyses() -> list[Analysis]:
    """Return the analysis of the temperature."""
    return [Analysis(name="temperature", compute=temperature, requires=TEMPERATURE_REQUIRES)]
