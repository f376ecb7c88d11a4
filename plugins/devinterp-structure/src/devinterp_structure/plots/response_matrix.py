"""The response matrix as a heat map of some of its tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from devinterp import arguments
from devinterp.schema import RESTRICTION, TOKEN
from devinterp_plots.heatmap import heatmap
from devinterp_structure.matrix import RESPONSE
from devinterp_structure.plots.points import labels_of
from devinterp_structure.response import DEFAULT_STEPS
from devinterp_structure.response import response_matrix as compute_response_matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def response_matrix(
    tree: xr.DataTree,
    sampling_task: str | None = None,
    *,
    result: xr.Dataset | None = None,
    labels: Any = None,
    max_tokens: int = 1000,
    limit: float | None = None,
    steps: Sequence[str] = DEFAULT_STEPS,
    ax: Axes | None = None,
) -> Figure:
    r"""Draw the response matrix: restrictions side by side, tokens one below the other.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run.
    sampling_task : str, optional
        As in ``tree.slt.response_matrix()``.
    result : xarray.Dataset, optional
        A result of ``tree.slt.response_matrix()`` to draw instead of computing one.
    labels : xarray.Dataset, xarray.DataArray or array, optional
        A result of ``tree.slt.clusters()`` or of ``tree.slt.patterns()``, or a label for each token, by which they are sorted;
        default: their observables.
    max_tokens : int, default: 1000
        Of more tokens as many are drawn, evenly spaced.
    limit : float, optional
        Response of the darkest red, and minus that of the darkest blue; above 0. Default: the 98th percentile of the sizes.
    steps : sequence of str, default: ("z_score", "centre_rows")
        As in ``tree.slt.response_matrix()``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure drawn on.
    """
    from devinterp_plots import style

    if result is None:
        result = compute_response_matrix(tree, sampling_task, steps=steps, leave_out_chains=False)
    num_tokens = result.sizes[TOKEN]
    words = labels_of(labels, num_tokens)
    if words is None:
        words = np.asarray(result["observable"]) if "observable" in result.coords else np.full(num_tokens, "")
    order = np.argsort(words.astype(str), kind="stable")
    count = min(arguments.count("max_tokens", max_tokens, least=1), num_tokens)
    rows = order[np.linspace(0, num_tokens - 1, count).round().astype(int)]
    values = result[RESPONSE].transpose(TOKEN, RESTRICTION).isel({TOKEN: rows}).to_numpy()
    names = [str(name) for name in result[RESTRICTION].to_numpy()]
    ax = style.axes(ax, 2.5 + min(10.0, 0.35 * len(names)), 5.0)
    heatmap(ax, values, [""] * count, names, limit=limit, bar="response")
    ax.tick_params(axis="x", rotation=90)
    starts = np.array([0, *(np.flatnonzero(words[rows][1:] != words[rows][:-1]) + 1)])
    for start in starts[1:]:
        ax.axhline(start - 0.5, color=style.INK, linewidth=0.8)
    middles = (starts + np.array([*starts[1:], count]) - 1) / 2
    ax.set_yticks(middles, [style.label(words[rows][start]) for start in starts])
    shown = f"{count} of {num_tokens} tokens" if count < num_tokens else f"{num_tokens} tokens"
    ax.set_title(
        f"{shown}; {', '.join(result.attrs['steps'][1:]) or 'as sampled'}", loc="left", fontsize=9, color=style.INK
    )
    return style.owner(ax)
