"""Clusters of tokens: where they lie along two components, and how large and how closed they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from devinterp.schema import TOKEN
from devinterp_structure.clusters import CLUSTER, Method
from devinterp_structure.clusters import clusters as compute_clusters
from devinterp_structure.pca import COMPONENT, SCORE, pca
from devinterp_structure.plots.points import labels_of, scatter
from devinterp_structure.response import DEFAULT_STEPS, response_matrix

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def clusters(
    tree: xr.DataTree,
    *,
    result: xr.Dataset | None = None,
    components: xr.Dataset | None = None,
    method: Method = "pagerank",
    num_clusters: int | None = None,
    min_size: int = 20,
    num_neighbours: int = 45,
    sampling_task: str | None = None,
    steps: Sequence[str] = DEFAULT_STEPS,
    figure: Figure | None = None,
) -> Figure:
    r"""Draw clusters of tokens along the first two components, and their sizes and conductances.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run.
    result : xarray.Dataset, optional
        A result of ``tree.slt.clusters()`` to draw instead of computing one.
    components : xarray.Dataset, optional
        A result of ``tree.slt.pca()`` for the same tokens; default: that of the response matrix.
    method, num_clusters, min_size, num_neighbours : optional
        As in ``tree.slt.clusters()``.
    sampling_task : str, optional
        As in ``tree.slt.clusters()``.
    steps : sequence of str, default: ("z_score", "centre_rows")
        As in ``tree.slt.clusters()``.
    figure : matplotlib.figure.Figure, optional
        Where to draw; by default a new one.

    Returns
    -------
    matplotlib.figure.Figure
        The figure drawn on.
    """
    from devinterp_plots import style

    if result is None or components is None:
        matrix = response_matrix(tree, sampling_task, steps=steps)
        if components is None:
            components = pca(matrix, num_components=2, standard_errors="none")
        if result is None:
            result = compute_clusters(
                matrix, method=method, num_clusters=num_clusters, min_size=min_size, num_neighbours=num_neighbours
            )
    result, components = result.compute(), components.compute()
    figure = style.picture(9.0, 3.9) if figure is None else figure
    left, right = figure.subplots(1, 2)
    scores = components[SCORE].transpose(TOKEN, COMPONENT).to_numpy()[:, :2]
    scatter(left, scores, labels_of(result, len(scores)))
    style.tidy(left, title="tokens", xlabel="score, component 1", ylabel="score, component 2")
    labels, values = result[CLUSTER].to_numpy(), result["conductance"].to_numpy()
    numbers, first, sizes = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    heights = values[labels >= 0][first]
    right.scatter(sizes, heights, s=28, color=style.colours(1)[0], linewidths=0)
    for number, size, height in zip(numbers, sizes, heights, strict=True):
        right.annotate(
            str(number), (size, height), xytext=(4, 3), textcoords="offset points", fontsize=8, color=style.INK
        )
    outside = (labels < 0).mean()
    title = f"{len(numbers)} clusters; {outside:.0%} of tokens in none"
    style.tidy(right, title=title, xlabel="tokens in the cluster", ylabel="conductance")
    right.set_ylim(bottom=0)
    return figure
