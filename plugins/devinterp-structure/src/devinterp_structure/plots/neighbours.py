"""Distances to the nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from devinterp.schema import TOKEN
from devinterp_structure.exact_neighbours import Metric
from devinterp_structure.neighbours import DISTANCE, RANK
from devinterp_structure.neighbours import neighbours as compute_neighbours
from devinterp_structure.response import DEFAULT_STEPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def neighbours(
    tree: xr.DataTree,
    *,
    result: xr.Dataset | None = None,
    num_neighbours: int = 45,
    metric: Metric = "euclidean",
    sampling_task: str | None = None,
    steps: Sequence[str] = DEFAULT_STEPS,
    ax: Axes | None = None,
) -> Figure:
    r"""Draw how far the neighbours of tokens are: the median over tokens, and the middle 50 and 90 %, by rank.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run.
    result : xarray.Dataset, optional
        A result of ``tree.slt.neighbours()`` to draw instead of computing one.
    num_neighbours, metric : optional
        As in ``tree.slt.neighbours()``.
    sampling_task : str, optional
        As in ``tree.slt.neighbours()``.
    steps : sequence of str, default: ("z_score", "centre_rows")
        As in ``tree.slt.neighbours()``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure drawn on.
    """
    from devinterp_plots import style

    if result is None:
        result = compute_neighbours(
            tree, num_neighbours=num_neighbours, metric=metric, sampling_task=sampling_task, steps=steps
        )
    distance = result[DISTANCE].transpose(TOKEN, RANK).to_numpy()
    ax = style.axes(ax, 5.5, 3.4)
    ranks, colour = result[RANK].to_numpy(), style.colours(1)[0]
    levels = np.quantile(distance, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    ax.fill_between(ranks, levels[0], levels[4], color=colour, alpha=0.15, linewidth=0, label="90 % of tokens")
    ax.fill_between(ranks, levels[1], levels[3], color=colour, alpha=0.3, linewidth=0, label="50 %")
    ax.plot(ranks, levels[2], color=colour, label="median")
    title = "nearest neighbours"
    if "recall" in result:
        title += f", {float(result['recall']):.1%} ± {float(result['recall_se']):.1%} of them found"
    style.tidy(ax, title=title, xlabel="rank of the neighbour", ylabel="distance")
    ax.set_ylim(bottom=0)
    ax.legend(frameon=False, fontsize=8)
    return style.owner(ax)
