"""A matrix of numbers as coloured cells with labels, colours symmetric around zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from devinterp.analyses.common.pictures import colour_limit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Most rows and columns with a label each, and most cells with their number in them.
MAX_LABELS, MAX_TEXTS = 60, 400


def heatmap(
    ax: Axes,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    limit: float | None = None,
    texts: Sequence[Sequence[str]] | None = None,
    bar: str = "",
) -> None:
    """Draw a matrix; what is no number stays the colour of the shade.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Where to draw.
    values : numpy.ndarray
        ``(row, column)``.
    rows, columns : sequence of str
        Labels; beyond 60 every second, third ... is shown.
    limit : float, optional
        Number of the last colour, and minus that of the first; above 0. Default: the 98th percentile of the sizes.
    texts : sequence of sequence of str, optional
        What is written into the cells, where there are no more than 400.
    bar : str, optional
        What the colours mean.
    """
    from devinterp_plots import style

    limit = colour_limit(values) if limit is None else limit
    colours = style.diverging().with_extremes(bad=style.SHADE)
    image = ax.imshow(
        np.ma.masked_invalid(values), cmap=colours, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
    )
    for axis, labels in ((ax.yaxis, rows), (ax.xaxis, columns)):
        every = -(-len(labels) // MAX_LABELS)
        axis.set_ticks(range(0, len(labels), every), [style.label(each) for each in labels[::every]])
    ax.tick_params(length=0, labelsize=8, labelcolor=style.INK)
    ax.tick_params(axis="x", rotation=45 if len(columns) > 3 else 0)
    for side in ax.spines.values():
        side.set_visible(False)
    if texts is not None and values.size <= MAX_TEXTS:
        for row, of_row in enumerate(texts):
            for column, text in enumerate(of_row):
                ax.text(column, row, text, ha="center", va="center", fontsize=7, color=style.INK)
    colour_bar = style.owner(ax).colorbar(image, ax=ax, label=bar, extend="both", shrink=0.8)
    colour_bar.ax.tick_params(labelsize=8, color=style.MUTED, labelcolor=style.INK)
    colour_bar.ax.yaxis.label.set_color(style.INK)
    colour_bar.outline.set_visible(False)
