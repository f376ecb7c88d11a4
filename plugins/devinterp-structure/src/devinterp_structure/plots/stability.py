"""Stability of clusters and neighbours, a point for each repeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import xarray as xr

from devinterp_structure.clusters import Method
from devinterp_structure.response import DEFAULT_STEPS
from devinterp_structure.stability import CHANGES
from devinterp_structure.stability import stability as compute_stability

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DRAWN = {"adjusted_rand": "clusters (adjusted Rand)", "neighbour_overlap": "neighbours (share kept)"}


def stability(
    tree: xr.DataTree,
    *,
    result: xr.Dataset | None = None,
    num_repeats: int = 5,
    share: float = 0.8,
    method: Method = "pagerank",
    num_clusters: int | None = None,
    min_size: int = 20,
    num_neighbours: int = 45,
    sampling_task: str | None = None,
    steps: Sequence[str] = DEFAULT_STEPS,
    ax: Axes | None = None,
) -> Figure:
    r"""Draw how far clusters and neighbours stay the same under another seed, part of the tokens, or without a chain.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run.
    result : xarray.Dataset, optional
        A result of ``tree.slt.stability()`` to draw instead of computing one.
    num_repeats, share, method, num_clusters, min_size, num_neighbours : optional
        As in ``tree.slt.stability()``.
    sampling_task : str, optional
        As in ``tree.slt.stability()``.
    steps : sequence of str, default: ("z_score", "centre_rows")
        As in ``tree.slt.stability()``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure drawn on.
    """
    from devinterp_plots import style

    if result is None:
        result = compute_stability(
            tree,
            num_repeats=num_repeats,
            share=share,
            method=method,
            num_clusters=num_clusters,
            min_size=min_size,
            num_neighbours=num_neighbours,
            sampling_task=sampling_task,
            steps=steps,
        )
    result = result.compute()
    ax = style.axes(ax, 6.0, 3.4)
    changes = [change for change in CHANGES if change in result["change"].to_numpy()]
    _points(ax, result, changes)
    ax.axhline(
        result["neighbour_overlap"].attrs["by_chance"],
        color=style.MUTED,
        linewidth=1,
        linestyle="--",
        label="neighbours by chance",
    )
    ax.set_xticks(
        range(len(changes)),
        [{"chain": "without a chain", "subsample": "part of the tokens"}.get(c, f"another {c}") for c in changes],
    )
    ax.set_ylim(-0.05, 1.05)
    style.tidy(ax, title="stability", ylabel="agreement with all of it")
    ax.legend(frameon=False, fontsize=8)
    return style.owner(ax)


def _points(ax: Axes, result: xr.Dataset, changes: Sequence[str]) -> None:
    """Draw a point for each repeat: clusters left, neighbours right of the place of each change."""
    from devinterp_plots import style

    of_repeat = result["change"].to_numpy()
    for offset, (name, label), colour in zip((-0.12, 0.12), _DRAWN.items(), style.colours(2), strict=True):
        for place, change in enumerate(changes):
            values = result[name].to_numpy()[of_repeat == change]
            x = [place + offset] * len(values)
            ax.plot(x, values, "o", ms=5, alpha=0.7, mew=0, color=colour, label=label if place == 0 else None)
