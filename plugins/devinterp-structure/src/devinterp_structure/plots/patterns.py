"""How well each component tells the tokens of each pattern from the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from devinterp.token_text import Tokenizer
from devinterp_plots.heatmap import heatmap
from devinterp_plots.susceptibilities import cell
from devinterp_structure.patterns import PATTERN
from devinterp_structure.patterns import patterns as compute_patterns
from devinterp_structure.pca import COMPONENT, pca
from devinterp_structure.response import DEFAULT_STEPS, response_matrix
from devinterp_structure.separation import separation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def patterns(
    tree: xr.DataTree,
    tokenizer: Tokenizer | None = None,
    *,
    result: xr.Dataset | None = None,
    components: xr.Dataset | None = None,
    functions: Mapping[str, Any] | None = None,
    num_components: int | None = None,
    sampling_task: str | None = None,
    steps: Sequence[str] = DEFAULT_STEPS,
    ax: Axes | None = None,
) -> Figure:
    r"""Draw how well components tell the tokens of a pattern from the others.

    In each cell stands the probability, less one half, that a token with the pattern has a larger score than one without, with
    its standard error over texts; a number within two standard errors of zero stands in brackets.

    Parameters
    ----------
    tree : xarray.DataTree
        One sampling run that holds token ids.
    tokenizer : Tokenizer, optional
        As in ``tree.slt.patterns()``.
    result : xarray.Dataset, optional
        A result of ``tree.slt.patterns()`` to draw instead of computing one.
    components : xarray.Dataset, optional
        A result of ``tree.slt.pca()`` for the same tokens; default: that of the response matrix.
    functions : mapping of str to callable, optional
        As in ``tree.slt.patterns()``.
    num_components : int, optional
        As in ``tree.slt.pca()``.
    sampling_task : str, optional
        As in ``tree.slt.pca()``.
    steps : sequence of str, default: ("z_score", "centre_rows")
        As in ``tree.slt.pca()``.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure drawn on.
    """
    from devinterp_plots import style

    if components is None:
        matrix = response_matrix(tree, sampling_task, steps=steps)
        components = pca(matrix, num_components=num_components, standard_errors="none")
    if result is None:
        result = compute_patterns(components, tokenizer, functions=functions)
    areas = separation(components.compute(), result.compute())
    values, errors = areas["auc"].to_numpy() - 0.5, areas["auc_se"].to_numpy()
    counts = areas["num_tokens"].to_numpy()
    rows = [f"{name} ({count})" for name, count in zip(areas[PATTERN].to_numpy(), counts, strict=True)]
    columns = [str(each) for each in areas[COMPONENT].to_numpy()]
    ax = style.axes(ax, 2.5 + 1.0 * len(columns), 1.4 + 0.4 * len(rows))
    texts = [[cell(v, e) for v, e in zip(*of_row, strict=True)] for of_row in zip(values, errors, strict=True)]
    heatmap(ax, np.asarray(values), rows, columns, limit=0.5, texts=texts, bar="probability − ½")
    ax.set_xlabel("component", fontsize=9, color=style.INK)
    ax.set_title("tokens of a pattern against the others", loc="left", fontsize=10, color=style.INK)
    return style.owner(ax)
