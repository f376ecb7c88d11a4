"""Tokens, or sequences of a loss kernel, in a plane in which neighbours stay near."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import xarray as xr

from devinterp_structure.embedding import AXIS
from devinterp_structure.embedding import embedding as compute_embedding
from devinterp_structure.plots.points import labels_of, scatter
from devinterp_structure.response import DEFAULT_STEPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def embedding(
    tree: xr.DataTree,
    *,
    result: xr.Dataset | None = None,
    labels: Any = None,
    num_neighbours: int = 45,
    seed: int = 0,
    sampling_task: str | None = None,
    steps: Sequence[str] = DEFAULT_STEPS,
    ax: Axes | None = None,
) -> Figure:
    r"""Draw tokens at their places in the embedding, of which the first two axes; of a loss kernel's, its sequences.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run.
    result : xarray.Dataset, optional
        A result of ``tree.slt.embedding()`` to draw instead of computing one.
    labels : xarray.Dataset, xarray.DataArray or array, optional
        A result of ``tree.slt.clusters()`` or of ``tree.slt.patterns()``, or a label for each point: their colours.
        Default: the groups of a loss kernel.
    num_neighbours, seed : optional
        As in ``tree.slt.embedding()``.
    sampling_task : str, optional
        As in ``tree.slt.embedding()``.
    steps : sequence of str, default: ("z_score", "centre_rows")
        As in ``tree.slt.embedding()``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure drawn on.
    """
    from devinterp_plots import style

    if result is None:
        result = compute_embedding(
            tree, num_neighbours=num_neighbours, seed=seed, sampling_task=sampling_task, steps=steps
        )
    if labels is None and "sample_group" in result:
        labels = result["sample_group"]
    places = result["embedding"].transpose(..., AXIS).to_numpy()[:, :2]
    ax = style.axes(ax, 5.5, 5.0)
    scatter(ax, places, labels_of(labels, len(places)))
    ax.set_xticks([])
    ax.set_yticks([])
    style.tidy(ax, title="neighbours stay near; distances mean little")
    return style.owner(ax)
