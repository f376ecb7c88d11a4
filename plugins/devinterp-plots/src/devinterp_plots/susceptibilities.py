"""Mean susceptibilities of data sets to weight restrictions, as a heat map."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np
import xarray as xr

from devinterp.analyses.susceptibilities.averaged import mean_susceptibilities
from devinterp.schema import RESTRICTION
from devinterp_plots.heatmap import heatmap
from devinterp_plots.read import one_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def susceptibilities(
    tree: xr.DataTree,
    *,
    sampling_task: str | None = None,
    estimator: Literal["two_run", "single_run"] = "two_run",
    full: str = "full",
    limit: float | None = None,
    burnin: int | None = None,
    chains: Literal["all", "finished"] = "all",
    ax: Axes | None = None,
) -> Figure:
    r"""Draw the mean susceptibility of each data set's tokens to each weight restriction.

    In each cell stands the mean with its standard error, a jackknife over chains, as far as there is room; a number within two
    standard errors of zero stands in brackets. The sampling task itself, whose mean is zero by definition, is left out.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run with several restrictions and observables.
    sampling_task : str, optional
        The observable made of the data that the run was sampled on; needed where there are several.
    estimator : {"two_run", "single_run"}, default: "two_run"
        As in ``tree.slt.susceptibilities()``.
    full : str, default: "full"
        As in ``tree.slt.susceptibilities()``.
    limit : float, optional
        Susceptibility of the darkest red, and minus that of the darkest blue; above 0. Default: the 98th percentile.
    burnin : int, optional
        As in ``tree.slt.susceptibilities()``.
    chains : {"all", "finished"}, default: "all"
        As in ``tree.slt.susceptibilities()``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure drawn on.

    Raises
    ------
    InvalidInputError
        If the tree does not hold exactly one run, or a name is unknown or has to be chosen.
    MissingDataError
        If the run recorded moments instead of losses.
    """
    from devinterp_plots import style

    run = one_run(tree, plot="susceptibilities")
    result = mean_susceptibilities(
        run, sampling_task, estimator=estimator, full=full, burnin=burnin, chains=chains
    ).compute()
    values, errors = (
        result[name].transpose(RESTRICTION, "observable").to_numpy() for name in ("susceptibility", "susceptibility_se")
    )
    rows, columns = ([str(each) for each in result[dim].to_numpy()] for dim in (RESTRICTION, "observable"))
    ax = style.axes(ax, 2.8 + 1.25 * min(len(columns), 12), 1.2 + 0.3 * min(len(rows), 80))
    scale, unit = unit_of(values)
    values, errors = values / scale, errors / scale
    texts = [[cell(v, e) for v, e in zip(*of_row, strict=True)] for of_row in zip(values, errors, strict=True)]
    heatmap(ax, values, rows, columns, limit=limit and limit / scale, texts=texts, bar=f"mean susceptibility{unit}")
    ax.set_title(f"sampled on {style.label(result.attrs['sampling_task'])}", loc="left", fontsize=10, color=style.INK)
    return style.owner(ax)


def unit_of(values: np.ndarray) -> tuple[float, str]:
    """Return the power of ten in which numbers are written, so that the largest is from 1 to 10, and how it is named."""
    largest = np.nanmax(np.abs(values), initial=0.0)
    power = math.floor(math.log10(largest)) if largest > 0 else 0
    return 10.0**power, f" (1e{power})" if power else ""


def cell(value: float, error: float) -> str:
    """Return a number with its error as a cell shows it; in brackets where it cannot be told from zero."""
    if not np.isfinite(value):
        return ""
    if not np.isfinite(error):
        return f"{value:.2g}"
    places = max(0, -math.floor(math.log10(error))) if error > 0 else 2
    text = f"{value:.{places}f} ± {error:.{places}f}"
    return f"({text})" if abs(value) < 2 * error else text
