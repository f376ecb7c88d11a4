"""Autocorrelation of each chain's losses: after how many steps a chain has forgotten where it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from devinterp.analyses.common.convergence import summaries
from devinterp.errors import InvalidInputError
from devinterp_plots.series import chain_series, title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def autocorrelation(
    tree: xr.DataTree,
    *,
    restriction: str | None = None,
    burnin: int | None = None,
    max_lag: int | None = None,
    ax: Axes | None = None,
) -> Figure:
    r"""Draw the autocorrelation of each chain's losses against the lag in steps.

    Within the shaded band, :math:`\pm 1.96/\sqrt{n}` for chains of n steps, it cannot be told from zero. The effective
    sample size of all chains together stands above.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run.
    restriction : str, optional
        The weight restriction; may be left out when there is only one.
    burnin : int, optional
        Number of initial steps to leave out; by default the run's ``num_burnin_steps``.
    max_lag : int, optional
        The largest lag, at least 1; by default a quarter of the steps, 200 at most.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure drawn on.

    Raises
    ------
    InvalidInputError
        If the tree does not hold exactly one run, a name is unknown or has to be chosen, no chain is finite to its end, or
        `max_lag` is not from 1 to less than the number of steps.
    """
    from devinterp_plots import style

    series = chain_series(tree, restriction, burnin, plot="autocorrelation")
    num_steps = series.values.shape[1]
    max_lag = max(1, min(200, num_steps // 4)) if max_lag is None else max_lag
    if not 1 <= max_lag < num_steps:
        raise InvalidInputError(f"`max_lag` (={max_lag}) must be 1 to {num_steps - 1}: there are {num_steps} steps.")
    ax = style.axes(ax, 7.0, 3.4)
    bound = 1.96 / np.sqrt(num_steps)
    ax.axhspan(-bound, bound, color=style.SHADE, zorder=0, linewidth=0)
    ax.axhline(0.0, color=style.INK, linewidth=0.9)
    correlations = autocorrelations(series.values, max_lag)
    for of_chain, name, colour in zip(correlations, series.chains, style.colours(len(correlations)), strict=True):
        ax.plot(np.arange(max_lag + 1), of_chain, color=colour, linewidth=1.3, label=style.label(f"chain {name}"))
    ess = float(summaries(series.values[None])[0, 1])
    size = "" if np.isnan(ess) else f": {ess:.0f} effective of {series.values.size:,} steps"
    title = title_of(series, f"autocorrelation{size}")
    style.tidy(ax, title=title, xlabel="lag (steps)", ylabel=f"of the {series.quantity}")
    ax.set_xlim(0, max_lag)
    if len(correlations) <= 8:
        ax.legend(loc="upper right", frameon=False, fontsize=8, labelcolor=style.INK, ncols=2)
    return style.owner(ax)


def autocorrelations(values: np.ndarray, max_lag: int) -> np.ndarray:
    r"""Compute the autocorrelation of each chain, ``(chain, lag)``, from lag 0.

    .. math:: \rho_k = \frac{\sum_t (x_t - \bar x)(x_{t+k} - \bar x)}{\sum_t (x_t - \bar x)^2}

    Parameters
    ----------
    values : numpy.ndarray
        ``(chain, step)``, finite.
    max_lag : int
        Less than the number of steps.

    Returns
    -------
    numpy.ndarray
        NaN of a chain that does not move.
    """
    centred = values.astype(np.float64) - values.mean(1, keepdims=True, dtype=np.float64)
    spectrum = np.fft.rfft(centred, 2 * values.shape[1])
    products = np.fft.irfft(np.abs(spectrum) ** 2, 2 * values.shape[1])[:, : max_lag + 1]
    scale = (centred**2).sum(1, keepdims=True)
    return np.asarray(products / np.where(scale > 0, scale, np.nan))
