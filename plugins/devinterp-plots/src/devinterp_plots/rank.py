"""Ranks of each chain's losses among those of all chains: uniform where the chains explored the same place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from devinterp import arguments
from devinterp_plots.series import chain_series, title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def rank(
    tree: xr.DataTree,
    *,
    restriction: str | None = None,
    burnin: int | None = None,
    num_bins: int = 20,
    ax: Axes | None = None,
) -> Figure:
    r"""Draw how the ranks of each chain's losses are spread over those of all chains together [1]_.

    Where the chains agree every chain has its share of every rank, and all bars end at the dashed line. A chain whose losses
    are higher than the others' has too many high ranks; one that has not mixed has them in lumps.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run.
    restriction : str, optional
        The weight restriction; may be left out when there is only one.
    burnin : int, optional
        Number of initial steps to leave out; by default the run's ``num_burnin_steps``.
    num_bins : int, default: 20
        Bars of each chain, at least 2.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure drawn on.

    Raises
    ------
    InvalidInputError
        If the tree does not hold exactly one run, a name is unknown or has to be chosen, or no chain is finite to its end.

    References
    ----------
    .. [1] A. Vehtari, A. Gelman, D. Simpson, B. Carpenter, P.-C. Bürkner. Rank-normalization, folding, and localization: an
       improved R-hat for assessing convergence of MCMC. arXiv:1903.08008.
    """
    from devinterp_plots import style

    num_bins = arguments.count("num_bins", num_bins, least=2)
    series = chain_series(tree, restriction, burnin, plot="rank")
    counts = rank_counts(series.values, num_bins)
    ax = style.axes(ax, 7.0, 1.4 + 0.62 * len(series.chains))
    expected = series.values.shape[1] / num_bins
    edges = np.linspace(0, series.values.size, num_bins + 1)
    height = 1.15 * max(counts.max(), expected)
    for n, (of_chain, colour) in enumerate(zip(counts, style.colours(len(counts)), strict=True)):
        base = height * (len(counts) - 1 - n)
        ax.bar(edges[:-1], of_chain, np.diff(edges), bottom=base, align="edge", color=colour, alpha=0.75, linewidth=0)
        ax.plot([0, series.values.size], [base + expected] * 2, color=style.INK, linewidth=1, linestyle=(0, (4, 3)))
    style.tidy(ax, title=title_of(series, "ranks among all chains"), xlabel=f"rank of the {series.quantity}")
    ticks = [height * (len(counts) - 1 - n) + expected for n in range(len(counts))]
    ax.set_yticks(ticks, [style.label(f"chain {each}") for each in series.chains])
    ax.set_xlim(0, series.values.size)
    ax.set_ylim(0, height * len(counts))
    ax.grid(False)
    ax.tick_params(axis="y", length=0)
    return style.owner(ax)


def rank_counts(values: np.ndarray, num_bins: int) -> np.ndarray:
    """Return how many of each chain's values have a rank in each bin, ``(chain, bin)``; equal values share their ranks.

    Parameters
    ----------
    values : numpy.ndarray
        ``(chain, step)``.
    num_bins : int
        Bins of equal width over all ranks.
    """
    flat = values.ravel()
    ordered = np.sort(flat)
    ranks = (np.searchsorted(ordered, flat, "left") + np.searchsorted(ordered, flat, "right") - 1) / 2
    bins = np.minimum((ranks * num_bins / flat.size).astype(int), num_bins - 1).reshape(values.shape)
    return np.stack([np.bincount(of_chain, minlength=num_bins) for of_chain in bins])
