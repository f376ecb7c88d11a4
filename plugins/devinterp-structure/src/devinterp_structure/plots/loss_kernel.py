"""Sequences in the plane in which their losses move together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from devinterp import arguments
from devinterp_structure.loss_kernel import OTHER, SAMPLE
from devinterp_structure.loss_kernel import loss_kernel as compute_loss_kernel
from devinterp_structure.pca import COMPONENT, SCORE
from devinterp_structure.plots.points import scatter

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def loss_kernel(
    tree: xr.DataTree,
    *,
    result: xr.Dataset | None = None,
    groups: Any = None,
    components: Sequence[int] = (1, 2),
    axes: Sequence[Axes] | None = None,
) -> Figure:
    r"""Draw the kernel of loss correlations, its rows sorted by group, and sequences along two of its components.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run.
    result : xarray.Dataset, optional
        A result of ``tree.slt.loss_kernel()`` to draw instead of computing one.
    groups : array_like, optional
        As in ``tree.slt.loss_kernel()``.
    components : sequence of int, default: (1, 2)
        The components to draw along, counted from 1.
    axes : sequence of matplotlib.axes.Axes, optional
        Two axes to draw on; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure drawn on.
    """
    from devinterp_plots import style

    pair = [arguments.count("components", number, least=1) for number in components]
    if result is None:
        result = compute_loss_kernel(tree, groups=groups, num_components=max(pair))
    left, right = style.picture(9.0, 4.0).subplots(1, 2) if axes is None else axes
    names = result["sample_group"].to_numpy().astype(str)
    order = np.argsort(names, kind="stable")
    values = result["kernel"].transpose(SAMPLE, OTHER).to_numpy()[np.ix_(order, order)]
    shown = left.imshow(values, cmap=style.diverging(), vmin=-1, vmax=1, aspect="equal", interpolation="nearest")
    style.owner(left).colorbar(shown, ax=left, label="correlation of losses")
    starts = np.array([0, *(np.flatnonzero(names[order][1:] != names[order][:-1]) + 1)])
    middles = (starts + np.array([*starts[1:], len(names)]) - 1) / 2
    left.set_yticks(middles, [style.label(names[order][start]) for start in starts])
    left.set_xticks([])
    style.tidy(left, title=f"{len(names)} sequences by group")
    left.grid(visible=False)
    places = result[SCORE].transpose(SAMPLE, COMPONENT).sel({COMPONENT: pair}).to_numpy()
    scatter(right, places, names.astype(object))
    share = result["explained_variance_ratio"].sel({COMPONENT: pair}).to_numpy()
    labels = [f"component {number} ({part:.0%})" for number, part in zip(pair, share, strict=True)]
    style.tidy(right, title="components of the kernel", xlabel=labels[0], ylabel=labels[1])
    return style.owner(left)
