"""Ratios of two means over chains and draws, and their standard errors."""

from __future__ import annotations

import xarray as xr

from devinterp.analyses.common.convergence import Series
from devinterp.analyses.common.mean_error import mean_error
from devinterp.schema import CHAIN, DRAW


def ratio_of_means(
    numerator: Series, denominator: Series | float, *, shared: bool, draw: str = DRAW
) -> tuple[Series, Series]:
    r"""Return :math:`r = \mathrm{E}[a] / \mathrm{E}[b]` and its standard error, to first order that of the mean of a - r b.

    Parameters
    ----------
    numerator, denominator : xarray.DataArray or xarray.Variable
        a and b, with dims `chain` and `draw`; b may be a number, or lack these dims.
    shared : bool
        Whether chains see the same minibatches (`devinterp.analyses.common.mean_error.mean_error`).
    draw : str, default: "draw"
        Name of the dimension along which a chain moves.
    """
    below = denominator if isinstance(denominator, xr.DataArray | xr.Variable) else xr.Variable((), denominator)
    mean_below = below.mean([dim for dim in (CHAIN, draw) if dim in below.dims], skipna=False)
    mean_below = mean_below.where(mean_below != 0)  # type: ignore[no-untyped-call]
    ratio = numerator.mean([CHAIN, draw], skipna=False) / mean_below
    error = mean_error(numerator - ratio * below, shared=shared, draw=draw)
    scaled = error / abs(mean_below)
    scaled.attrs = error.attrs
    return ratio, scaled
