"""Trajectories of parts of a model, coloured by their cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from devinterp.errors import InvalidInputError
from devinterp_structure.trajectory_clusters import CLUSTER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def trajectory_clusters(
    result: xr.Dataset, values: xr.DataArray, errors: xr.DataArray | None = None, *, ax: Axes | None = None
) -> Figure:
    r"""Draw trajectories in the colours of their clusters.

    Parameters
    ----------
    result : xarray.Dataset
        A result of `devinterp_structure.trajectory_clusters`.
    values : xarray.DataArray
        The trajectories that were clustered, along one dim; of more, their mean over the others first.
    errors : xarray.DataArray, optional
        Their standard errors: a band on either side.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure drawn on.
    """
    from devinterp_plots import style

    (of,) = result[CLUSTER].dims
    others = [dim for dim in values.dims if dim != of]
    if len(others) != 1 or of not in values.dims or values.sizes[of] != result.sizes[of]:
        raise InvalidInputError(
            f"`values` must be the clustered trajectories, with {of!r} and one more dim; got {dict(values.sizes)}."
        )
    (along,) = others
    where = values[along].to_numpy() if along in values.coords else np.arange(values.sizes[along])
    names = values[of].to_numpy() if of in values.coords else np.arange(values.sizes[of])
    lines = values.transpose(of, along).to_numpy()
    bands = None if errors is None else errors.transpose(of, along).to_numpy()
    clusters = result[CLUSTER].to_numpy()
    colours = style.colours(int(clusters.max()) + 1)
    ax = style.axes(ax, 6.0, 4.0)
    for number, colour in enumerate(colours):
        members = np.flatnonzero(clusters == number)
        label = style.label(f"{number}: {', '.join(str(names[each]) for each in members)}", 40)
        for each in members:
            ax.plot(where, lines[each], color=colour, linewidth=1.3, label=label if each == members[0] else None)
            if bands is not None:
                low, high = lines[each] - bands[each], lines[each] + bands[each]
                ax.fill_between(where, low, high, color=colour, alpha=0.15, linewidth=0)
    stability = float(result["stability"])
    found = "" if np.isnan(stability) else f"; stability {stability:.2f} ± {float(result['stability_sd']):.2f}"
    style.tidy(ax, title=f"{len(colours)} clusters{found}", xlabel=str(along), ylabel=str(values.name or ""))
    ax.legend(frameon=False, fontsize=8, loc="best", title="cluster", title_fontsize=8)
    return style.owner(ax)
