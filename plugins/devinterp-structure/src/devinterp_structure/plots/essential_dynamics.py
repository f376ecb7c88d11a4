"""The path of a model's outputs over training, with the centres of its osculating circles."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from devinterp.errors import InvalidInputError
from devinterp_structure.essential_dynamics import CENTRE_AXIS, PLANE
from devinterp_structure.pca import COMPONENT, SCORE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def essential_dynamics(result: xr.Dataset, *, plane: str = "1,2", ax: Axes | None = None) -> Figure:
    r"""Draw a plane of the path: its points, the smoothed path, its evolute, and vertices and cusps by name.

    Parameters
    ----------
    result : xarray.Dataset
        A result of `devinterp_structure.essential_dynamics`.
    plane : str, default: "1,2"
        Two of its components.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure drawn on. The evolute, the centres of the circles that fit best, is cut at the frame of the path.
    """
    from devinterp_plots import style

    known = [str(name) for name in result[PLANE].to_numpy()]
    if plane not in known:
        raise InvalidInputError(f"`plane` (={plane!r}) must be one of {', '.join(map(repr, known))}.")
    pair = [int(number) for number in plane.split(",")]
    (dim,) = set(result[SCORE].dims) - {COMPONENT}
    raw, smooth = (
        result[name].sel({COMPONENT: pair}).transpose(dim, COMPONENT).to_numpy() for name in (SCORE, "smoothed")
    )
    centre = result["centre"].sel({PLANE: plane}).transpose(dim, CENTRE_AXIS).to_numpy()
    names = result[dim].to_numpy() if dim in result.coords else np.arange(len(raw))
    ax = style.axes(ax, 5.5, 5.0)
    path, evolute, vertex, cusp = style.colours(4)
    ax.plot(*raw.T, ".", color=style.MUTED, markersize=4, label="checkpoints")
    ax.plot(*smooth.T, color=path, linewidth=1.5, label="smoothed")
    frame = ax.axis()
    # Where the path is nearly straight the circle is huge, and a line to its centre would cross the picture.
    inside = np.all((centre > [frame[0], frame[2]]) & (centre < [frame[1], frame[3]]), axis=1, keepdims=True)
    ax.plot(*np.where(inside, centre, np.nan).T, ".-", color=evolute, markersize=2, linewidth=0.8, label="evolute")
    ax.axis(frame)
    for name, colour, marker in (("is_vertex", vertex, "o"), ("is_cusp", cusp, "X")):
        here = np.flatnonzero(result[name].sel({PLANE: plane}).to_numpy())
        ax.plot(*smooth[here].T, marker, color=colour, markersize=5, linestyle="", label=name.removeprefix("is_"))
        for place in here:
            ax.annotate(
                str(names[place]), smooth[place], fontsize=7, color=style.INK, xytext=(4, 4), textcoords="offset points"
            )
    share = result["explained_variance_ratio"].sel({COMPONENT: pair}).to_numpy()
    labels = [f"component {number} ({part:.0%})" for number, part in zip(pair, share, strict=True)]
    style.tidy(ax, title=f"outputs over {dim}s, {names[0]} to {names[-1]}", xlabel=labels[0], ylabel=labels[1])
    ax.legend(frameon=False, fontsize=8, loc="best")
    return style.owner(ax)
