"""Principal components: how much they explain and how much of that chains share, tokens, and restrictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from devinterp.analyses.common.uncertainty import confidence_interval
from devinterp.errors import InvalidInputError
from devinterp.schema import RESTRICTION, TOKEN
from devinterp_structure.pca import COMPONENT, LOADING, SCORE
from devinterp_structure.pca import pca as compute_pca
from devinterp_structure.plots.points import labels_of, scatter
from devinterp_structure.response import DEFAULT_STEPS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Most restrictions with their name beside their point.
_MAX_NAMES = 60


def pca(
    tree: xr.DataTree,
    *,
    result: xr.Dataset | None = None,
    labels: Any = None,
    components: Sequence[int] = (1, 2),
    num_components: int | None = None,
    sampling_task: str | None = None,
    steps: Sequence[str] = DEFAULT_STEPS,
    figure: Figure | None = None,
) -> Figure:
    r"""Draw principal components of the response matrix: their variance, the tokens, and the restrictions.

    Left, grey bars are the explained variance, points the signal variance, which chains share, with its 95 % interval:
    components whose interval holds zero are no more than noise. In the middle are tokens at their scores, right restrictions at
    their loadings.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run.
    result : xarray.Dataset, optional
        A result of ``tree.slt.pca()`` to draw instead of computing one.
    labels : xarray.Dataset, xarray.DataArray or array, optional
        A result of ``tree.slt.clusters()`` or of ``tree.slt.patterns()``, or a label for each token: their colours.
    components : sequence of int, default: (1, 2)
        The two that are drawn against each other.
    num_components : int, optional
        As in ``tree.slt.pca()``.
    sampling_task : str, optional
        As in ``tree.slt.pca()``.
    steps : sequence of str, default: ("z_score", "centre_rows")
        As in ``tree.slt.pca()``.
    figure : matplotlib.figure.Figure, optional
        Where to draw; by default a new one.

    Returns
    -------
    matplotlib.figure.Figure
        The figure drawn on.

    Raises
    ------
    InvalidInputError
        If one of the components is not there.
    """
    from devinterp_plots import style

    if result is None:
        result = compute_pca(tree, num_components=num_components, sampling_task=sampling_task, steps=steps)
    result = result.compute()
    known = [int(each) for each in result[COMPONENT].to_numpy()]
    if len(components) != 2 or not set(components) <= set(known):
        raise InvalidInputError(f"`components` (={tuple(components)}) must be two of {known}.")
    figure = style.picture(12.0, 3.9) if figure is None else figure
    left, middle, right = figure.subplots(1, 3)
    _variance(left, result)
    pair = {COMPONENT: list(components)}
    names = [_name(result, each) for each in components]
    scores = result[SCORE].sel(pair).transpose(TOKEN, COMPONENT).to_numpy()
    scatter(middle, scores, labels_of(labels, len(scores)))
    style.tidy(middle, title="tokens", xlabel=f"score, {names[0]}", ylabel=f"score, {names[1]}")
    loadings = result[LOADING].sel(pair).transpose(RESTRICTION, COMPONENT)
    right.scatter(*loadings.to_numpy().T, s=16, color=style.colours(2)[1], linewidths=0)
    right.axhline(0, color=style.MUTED, linewidth=0.7)
    right.axvline(0, color=style.MUTED, linewidth=0.7)
    if loadings.sizes[RESTRICTION] <= _MAX_NAMES:
        for place, name in zip(loadings.to_numpy(), loadings[RESTRICTION].to_numpy(), strict=True):
            right.annotate(
                style.label(name), place, xytext=(3, 3), textcoords="offset points", fontsize=7, color=style.INK
            )
    style.tidy(
        right, title="restrictions", xlabel=f"loading, component {components[0]}", ylabel=f"component {components[1]}"
    )
    return figure


def _variance(ax: Axes, result: xr.Dataset) -> None:
    from devinterp_plots import style

    places = result[COMPONENT].to_numpy()
    ax.bar(places, result["explained_variance"], color=style.GRID, label="explained")
    if "signal_variance" in result:
        values, interval = result["signal_variance"].to_numpy(), confidence_interval(result, "signal_variance")
        error = np.nan_to_num((interval["upper"] - interval["lower"]).to_numpy() / 2)
        ax.errorbar(
            places,
            values,
            yerr=error,
            fmt="o",
            ms=5,
            capsize=3,
            color=style.colours(1)[0],
            label="shared by chains, 95 %",
        )
    ax.axhline(0, color=style.MUTED, linewidth=0.7)
    ax.legend(frameon=False, fontsize=8)
    style.tidy(ax, title="variance", xlabel="component", ylabel="variance of scores")


def _name(result: xr.Dataset, component: int) -> str:
    share = float(result["explained_variance_ratio"].sel({COMPONENT: component}))
    return f"component {component} ({share:.0%})"
